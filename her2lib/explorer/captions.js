// ---------- words: titles, units, distances, and the caption that a screenshot carries

class Captions {
  constructor(explorer) {
    this.explorer = explorer;
  }

  // ----- one panel

  title(panel, view) {
    const { catalogue, networks, panels } = this.explorer;
    const network = networks[panel.network];
    if (panel.shows !== "map" || !network) return catalogue.shows[panel.shows];
    if (panels.attends(panel)) return `${network.name} · ${this.attentionTitle(panel, view)}`;
    const { label } = catalogue.methods[panel.method];
    const target = this.target(panel);
    if (!target) return `${network.name} · ${label}`;
    const predicted = this.explorer.get("target") === "predicted" ? ", predicted" : "";
    return `${network.name} · ${label} for ${target}${predicted}`;
  }

  attentionTitle(panel, view) {
    const { catalogue, panels } = this.explorer;
    const token = panels.token(panel);
    const everyHead = !panel.head || (token && catalogue.page);
    const head = everyHead ? "mean of heads" : `head ${panel.head}`;
    let from = "from CLS";
    if (token) {
      const distance = this.distance(view);
      from = `from token row ${token[0] + 1}, column ${token[1] + 1}`;
      if (distance) from += `, mean distance ${distance}`;
    }
    return `attention, layer ${panel.layer}, ${head}, ${from}`;
  }

  target(panel) {
    // What a map explains in words, "" for methods that know no score.
    const { scores, targets } = this.explorer.catalogue;
    const target = this.explorer.panels.target(panel);
    if (target === "-") return "";
    return targets[scores[target] ?? target];
  }

  unit(panel, map) {
    // What the numbers at the ends of a legend are.
    if (panel.shows !== "map") return "optical density, base 10";
    if (this.explorer.panels.attends(panel)) {
      const mean = map.values.reduce((sum, value) => sum + value) / map.values.length;
      return `fraction of the attention per cell; spread evenly: ${shortNumber(mean)}`;
    }
    if (!this.explorer.catalogue.methods[panel.method].signed) {
      return "no unit: compare places, not patches";
    }
    const target = this.target(panel);
    if (!target) return "purple below 0, orange above";
    return `purple speaks against ${target}, orange for it`;
  }

  distance(view) {
    // Mean distance from the token to where its attention goes, "" while it is not known.
    if (!view.map || !view.token || !view.picture) return "";
    return this.length(attentionDistance(view.map, ...view.token, view.picture.side_px));
  }

  length(px) {
    const { mpp } = this.explorer.patch();
    const micrometres = mpp ? ` (${(px * mpp).toFixed(0)} µm)` : "";
    return `${px.toFixed(0)} px${micrometres}`;
  }

  tokenSentence(token, view) {
    if (!token) return "Attention starts from CLS again, the token that the score is read from.";
    const distance = this.distance(view);
    const reach = distance ? `: on average it looks ${distance} away` : "";
    const cell = `row ${token[0] + 1}, column ${token[1] + 1}`;
    return `Attention now starts from the token in ${cell}${reach}. Esc goes back.`;
  }

  // ----- the whole drawing

  lines() {
    // All that a reader of a screenshot must know, one sentence or a few a line.
    const { explorer } = this;
    const { name, truth } = explorer.patch();
    const score = explorer.scoreName(truth);
    const first = `Patch ${name} of study ${explorer.catalogue.study}; true score ${score}.`;
    const panels = explorer.get("panels").map((panel, k) => this.panelLine(panel, k));
    return [first, ...panels, this.scalingLine(), RESEARCH];
  }

  panelLine(panel, k) {
    const title = this.title(panel, this.explorer.panels.views[k] ?? {});
    const network = this.explorer.networks[panel.network];
    if (panel.shows !== "map" || !network) return `Panel ${k + 1}: ${title}.`;
    const caption = this.explorer.panels.attends(panel)
      ? "Attention knows no score"
      : this.explorer.catalogue.methods[panel.method].caption;
    return `Panel ${k + 1}: ${title} (${this.networkFacts(network)}). ${caption}.`;
  }

  networkFacts({ run, recipe, seed, weights, side_px, verdict }) {
    const predicted = this.explorer.predicted(this.explorer.patch(), run);
    const score = this.explorer.scoreName(predicted);
    const collapsed = verdict ? `; COLLAPSED: ${verdict}` : "";
    const training = `recipe ${recipe}, seed ${seed}, weights ${weights}, ${side_px} px`;
    return `${training}; it predicts ${score}${collapsed}`;
  }

  scalingLine() {
    const { explorer } = this;
    const smooth = explorer.get("smooth")
      ? "bilinear to the patch's size"
      : "in blocks, as computed";
    const scale = explorer.get("stretch")
      ? "from its smallest to its largest value"
      : "divided by its largest absolute value";
    const opacity = percent(explorer.get("opacity"));
    const threshold = percent(explorer.get("threshold"));
    return `Scaling: each map ${scale} in this patch, signed maps symmetric, ${smooth}; `
      + `opacity ${opacity}, growing with the value; drawn from ${threshold} of the largest value; `
      + `zoom ${explorer.zoom.factor.toFixed(1)}.`;
  }
}

// ---------- screenshot

const SHOT = { side: 560, gap: 16, line: 21, title: 20, legend: 64 };
const SHOT_FONT = "15px 'DejaVu Sans', sans-serif";

function drawScreenshot(explorer) {
  // Canvas with the panels, their legends, and the caption below.
  const { side, gap, line } = SHOT;
  const { views } = explorer.panels;
  const canvas = makeCanvas(views.length * (side + gap) + gap, 10);
  const context = canvas.getContext("2d");
  context.font = SHOT_FONT;
  const titles = views.map((view) => wrapText(context, view.title.textContent, side));
  const caption = explorer.captions.lines()
    .flatMap((sentence) => wrapText(context, sentence, canvas.width - 2 * gap));
  const top = Math.max(...titles.map((lines) => lines.length)) * SHOT.title + gap;
  const bottom = top + side + SHOT.legend;
  canvas.height = bottom + line * caption.length + gap; // forgets the font

  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.font = SHOT_FONT;
  context.fillStyle = "#222";
  views.forEach((view, k) => {
    const x = gap + k * (side + gap);
    titles[k].forEach((text, row) => context.fillText(text, x, SHOT.title * (row + 1)));
    const drawing = view.paint(explorer.get("panels")[k], makeCanvas(side, side));
    context.drawImage(drawing, x, top);
    if (view.legend.style.visibility === "visible") drawShotLegend(context, view, x, top + side);
  });
  caption.forEach((text, row) => context.fillText(text, gap, bottom + 15 + line * row));
  return canvas;
}

function drawShotLegend(context, view, x, y) {
  context.drawImage(view.bar, x + 90, y + 8, SHOT.side - 180, 10);
  context.fillText(view.low.textContent, x, y + 19);
  context.fillText(view.high.textContent, x + SHOT.side - 82, y + 19);
  context.fillText(view.unit.textContent, x, y + 40);
}

function saveScreenshot(explorer) {
  const stem = explorer.patch().name.replace(/\.[^.]*$/, "");
  const name = `${explorer.catalogue.study}_${stem}.png`;
  drawScreenshot(explorer).toBlob((blob) => download(name, blob), "image/png");
  explorer.say("Screenshot saved, with a caption that says what it shows.");
}
