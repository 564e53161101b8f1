// ---------- the strip of patches, and which of them it lists

const THUMB_PX = 104; // with its margin
const THUMBS = 400; // thumbnails kept
const IN_DOUBT = 0.5; // of 0..1, from label review
const FILTERS = [
  "search", "truth", "predicted", "verdict", "sure_from", "sure_to", "disagree", "doubt",
];

class Strip {
  constructor(explorer) {
    this.explorer = explorer;
    this.id = `her2-${Math.random().toString(36).slice(2, 8)}`;
    this.rows = []; // indices of the patches that pass the filters
    this.options = new Map();
    this.urls = new Recent(THUMBS, () => 1, (url) => URL.revokeObjectURL(url));
    this.belt = make("div", { className: "belt" });
    this.node = make("div", { className: "strip", tabIndex: 0, role: "listbox" }, this.belt);
    this.node.ariaLabel = "Patches; arrow keys go on";
    this.node.addEventListener("scroll", () => explorer.later("strip"), { passive: true });
    this.count = make("p", { className: "count", role: "status" });
  }

  close() {
    this.urls.clear();
  }

  // ----- filters

  filter() {
    const { explorer } = this;
    const { patches } = explorer.catalogue;
    const filters = Object.fromEntries(FILTERS.map((key) => [key, explorer.get(key)]));
    this.rows = [...patches.keys()].filter((i) => this.passes(patches[i], filters));
    if (filters.doubt) this.rows.sort((a, b) => patches[b].doubt - patches[a].doubt);
    this.belt.style.width = `${this.rows.length * THUMB_PX}px`;
    this.count.textContent = `${this.rows.length} of ${patches.length} patches.${this.emptiness()}`;
    const selectedHidden = !this.rows.includes(explorer.get("patch"));
    if (this.rows.length && selectedHidden) explorer.set({ patch: this.rows[0] });
  }

  passes(patch, filters) {
    const { explorer } = this;
    if (patch.added) return true;
    const search = filters.search.trim().toLowerCase();
    if (search && !patch.name.toLowerCase().includes(search)) return false;
    const truth = explorer.scoreName(patch.truth);
    if (filters.truth !== "any" && truth !== filters.truth) return false;
    const predicted = explorer.scoreName(explorer.predicted(patch));
    if (filters.predicted !== "any" && predicted !== filters.predicted) return false;
    if (filters.verdict !== "any" && this.verdict(patch) !== filters.verdict) return false;
    if (!this.sureEnough(patch, filters)) return false;
    if (filters.disagree && new Set(Object.values(patch.raters)).size < 2) return false;
    return !filters.doubt || patch.doubt >= IN_DOUBT;
  }

  verdict(patch) {
    const predicted = this.explorer.predicted(patch);
    if (predicted < 0 || patch.truth < 0) return "unknown";
    return predicted === patch.truth ? "right" : "wrong";
  }

  sureEnough(patch, filters) {
    const probabilities = this.explorer.probabilities(patch);
    if (!probabilities) return filters.sure_from <= 0;
    const sure = 100 * Math.max(...probabilities);
    return sure >= filters.sure_from && sure <= filters.sure_to;
  }

  emptiness() {
    // Why no patch is listed, and what to do about it.
    if (this.rows.length) return "";
    const { patches } = this.explorer.catalogue;
    const reviewed = patches.some((patch) => patch.doubt !== null);
    const why = this.explorer.get("doubt") && !reviewed
      ? "No label review has been run for this study (notebook 09_label_review)"
      : "Widen the filters to see some";
    return ` ${why}; the panels still show the last one.`;
  }

  // ----- drawing

  draw() {
    // Only what is in sight has an element, so that 5,000 patches cost 20.
    const { explorer } = this;
    const network = explorer.get("network");
    const first = Math.max(0, Math.floor(this.node.scrollLeft / THUMB_PX) - 2);
    const count = Math.ceil((this.node.clientWidth || 800) / THUMB_PX) + 4;
    const same = this.drawnRows === this.rows && this.drawnNetwork === network;
    const before = same ? this.options : new Map();
    this.options = new Map();
    this.rows.slice(first, first + count).forEach((i, k) => {
      this.options.set(i, before.get(i) ?? this.makeThumb(i, first + k));
    });
    this.drawnRows = this.rows;
    this.drawnNetwork = network;

    const patch = explorer.get("patch");
    this.options.forEach((option, i) => option.setAttribute("aria-selected", String(i === patch)));
    this.node.setAttribute("aria-activedescendant", `${this.id}-${patch}`);
    const options = [...this.options.values()];
    const moved = options.some((option, k) => this.belt.children[k] !== option);
    if (moved || this.belt.children.length > options.length) this.belt.replaceChildren(...options);
  }

  makeThumb(i, position) {
    const { explorer } = this;
    const patch = explorer.catalogue.patches[i];
    const predicted = explorer.predicted(patch);
    const truthName = explorer.scoreName(patch.truth);
    const predictedName = explorer.scoreName(predicted);
    const mark = { right: " ✓", wrong: " ✗", unknown: "" }[this.verdict(patch)];
    const image = make("img", { alt: "", width: 88, height: 88 });
    const option = make("div", { id: `${this.id}-${i}`, className: "thumb", role: "option" },
      image,
      make("span", { className: "scores" }, `${truthName} → ${predictedName}${mark}`),
      make("span", { className: "name" }, patch.name));
    option.addEventListener("click", () => explorer.set({ patch: i }));
    option.classList.toggle("wrong", mark === " ✗");
    option.style.left = `${position * THUMB_PX}px`;
    const sure = predicted < 0
      ? ""
      : `, ${percent(explorer.probabilities(patch)[predicted])} sure`;
    option.title = `${patch.name}: true ${truthName}, predicted ${predictedName}${sure}`;
    option.setAttribute("aria-label", option.title);
    option.setAttribute("aria-setsize", String(this.rows.length));
    option.setAttribute("aria-posinset", String(position + 1));
    this.loadThumb(i, image);
    return option;
  }

  async loadThumb(i, image) {
    const key = `thumb/${i}`;
    try {
      image.src = this.urls.get(key) ?? (await this.fetchThumb(key));
    } catch (error) {
      if (!(error instanceof StaleRequest)) image.alt = "unreadable";
    }
  }

  async fetchThumb(key) {
    const answer = await this.explorer.source.ask(key);
    const known = this.urls.get(key); // asked for twice, it is kept once
    if (known) return known;
    const blob = new Blob([answer.bytes], { type: "image/jpeg" });
    return this.urls.set(key, URL.createObjectURL(blob));
  }

  // ----- moving along

  showSelected() {
    const position = this.rows.indexOf(this.explorer.get("patch"));
    if (position < 0) return;
    const left = position * THUMB_PX;
    const right = left + THUMB_PX;
    const { scrollLeft, clientWidth } = this.node;
    if (left < scrollLeft) this.node.scrollLeft = left;
    else if (right > scrollLeft + clientWidth) this.node.scrollLeft = right - clientWidth;
  }

  go(step) {
    const position = this.rows.indexOf(this.explorer.get("patch"));
    const next = this.rows[clamp(position + step, 0, this.rows.length - 1)];
    if (next !== undefined) this.explorer.set({ patch: next });
  }
}
