// ---------- beside the panels: what the selected network says of the patch, and what people say

class Probabilities {
  constructor(explorer) {
    this.explorer = explorer;
    this.node = make("section", { className: "probabilities", ariaLabel: "Probabilities" });
  }

  draw() {
    const patch = this.explorer.patch();
    const facts = this.facts(patch).filter(Boolean).join(" · ");
    this.node.replaceChildren(
      make("h3", {}, patch.name),
      make("p", { className: "facts" }, facts),
      ...this.explorer.catalogue.scores.map((_, score) => this.line(patch, score)));
  }

  facts(patch) {
    return [
      this.prediction(patch),
      patch.set && `${patch.set} set`,
      agreement(Object.values(patch.raters)),
      patch.doubt !== null && `label doubt ${percent(patch.doubt)}`,
      patch.truth < 0 && "true score unknown",
    ];
  }

  prediction(patch) {
    const network = this.explorer.network();
    if (!network) return "No network has finished";
    const predicted = this.explorer.predicted(patch);
    if (predicted < 0) return network.name;
    return `${network.name} predicts ${this.explorer.scoreName(predicted)}`;
  }

  line(patch, score) {
    // A score's bar with its probability, and who else gave the patch this score.
    const { scores, colours } = this.explorer.catalogue;
    const probability = this.explorer.probabilities(patch)?.[score];
    const known = probability !== undefined;
    const bar = make("span", { className: "fill" });
    bar.style.width = `${known ? 100 * probability : 0}%`;
    bar.style.background = colours[score];
    return make("div", { className: "line" },
      make("b", {}, scores[score]),
      make("span", { className: "rail" }, bar),
      make("span", { className: "percent" }, known ? percent(probability) : "–"),
      ...this.tags(patch, score));
  }

  tags(patch, score) {
    const raters = Object.keys(patch.raters).filter((rater) => patch.raters[rater] === score);
    const tags = raters.map((rater) =>
      make("span", { className: "tag", title: `rater ${rater}` }, rater));
    if (patch.truth === score) {
      tags.unshift(make("span", { className: "tag true", title: "true score" }, "true"));
    }
    return tags;
  }
}

function agreement(scores) {
  if (scores.length < 2) return "";
  return new Set(scores).size > 1 ? "raters disagree" : "raters agree";
}
