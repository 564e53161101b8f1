// ---------- the explorer itself: its state, what a change of it leads to, and its keys

const PANEL_KEYS = ["shows", "network", "method", "layer", "head"];
const DRAWING_KEYS = ["opacity", "threshold", "smooth"];
const STATE_KEYS = [
  "patch", "panels", "selected", "token", "target", "added", "stretch",
  ...PANEL_KEYS, ...DRAWING_KEYS, ...FILTERS,
];
const MOST_FILE_BYTES = 8e6;
const KEYS_HELP = [
  "← → patch", "Home, End first and last", "1-4 panel", "+ − zoom, 0 whole patch",
  "Shift and arrows move", "[ ] layer", ", . head", "T token, I J K L move it, Esc CLS",
  "P screenshot", "? this list",
].join(" · ");
const MOVE_KEYS = {
  ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1],
};
const SLIDER_KEYS = [...Object.keys(MOVE_KEYS), "Home", "End", "PageUp", "PageDown"];
const TOKEN_KEYS = { i: [0, -1], k: [0, 1], j: [-1, 0], l: [1, 0] };

class Explorer {
  // model: an anywidget model or a PageState; source: answers by key; store: where notes go.
  constructor(root, { model, source, store, catalogue }) {
    this.root = root;
    this.model = model;
    this.source = source;
    this.catalogue = catalogue;
    this.networks = Object.fromEntries(catalogue.networks.map((row) => [row.run, row]));
    this.nAdded = 0; // patches from outside at the end of the catalogue's
    this.dirty = new Set();
    this.zoom = new Zoom(this);
    this.captions = new Captions(this);
    this.readings = new Readings(this);
    this.strip = new Strip(this);
    this.panels = new Panels(this);
    this.probabilityBars = new Probabilities(this);
    this.grid = new AttentionGrid(this);
    this.controls = new Controls(this);
    this.notes = new Notes(this, store);
    this.build();
    this.listen();
    this.adopt();
    this.later("filter", "panels", "load", "side", "draw");
  }

  listen() {
    this.listeners = STATE_KEYS.map((key) => [`change:${key}`, () => this.changed(key)]);
    this.listeners.forEach(([event, listener]) => this.model.on(event, listener));
    this.source.onStatus = (text) => this.say(text);
    this.resized = new ResizeObserver(() => this.later("strip", "draw"));
    this.resized.observe(this.root);
    this.root.addEventListener("keydown", (event) => this.press(event));
  }

  close() {
    this.listeners.forEach(([event, listener]) => this.model.off(event, listener));
    this.resized.disconnect();
    this.source.close?.();
    this.strip.close();
  }

  // ----- state

  get(key) {
    return this.model.get(key);
  }

  set(changes) {
    for (const [key, value] of Object.entries(changes)) this.model.set(key, value);
    this.model.save_changes();
  }

  patch() {
    return this.catalogue.patches[this.get("patch")] ?? this.catalogue.patches[0];
  }

  network() {
    return this.networks[this.get("network")];
  }

  probabilities(patch, run = this.get("network")) {
    return patch.probabilities[run] ?? null;
  }

  predicted(patch, run) {
    // Score 0..3, or -1 where the network has not seen the patch.
    const probabilities = this.probabilities(patch, run);
    if (!probabilities) return -1;
    return probabilities.indexOf(Math.max(...probabilities));
  }

  scoreName(score) {
    return this.catalogue.scores[score] ?? "?";
  }

  // ----- what a change of state leads to

  changed(key) {
    if (key === "selected") this.takeSelected();
    if (PANEL_KEYS.includes(key) && !this.quiet) this.keepPanel(key);
    if (key === "added") this.adopt();
    if (key === "token") this.panels.tokenMoved = true;
    if (key === "patch") {
      this.say("");
      this.strip.showSelected();
      this.later("strip");
    }
    if ([...FILTERS, "network", "added"].includes(key)) this.later("filter");
    if (["panels", "selected"].includes(key)) this.later("panels");
    if (["patch", "network", "added"].includes(key)) this.later("side");
    // Nothing is loaded and nothing beside the panels changes: a slider stays quick.
    if (!DRAWING_KEYS.includes(key)) this.later("load");
    this.later("draw");
  }

  setQuietly(changes) {
    // A model tells of each key at once, when the others are still the last panel's.
    this.quiet = true;
    this.set(changes);
    this.quiet = false;
  }

  takeSelected() {
    const panel = this.get("panels")[this.get("selected")];
    if (panel) this.setQuietly(Object.fromEntries(PANEL_KEYS.map((key) => [key, panel[key]])));
  }

  keepPanel(key) {
    // The flat traits are those of the selected panel, and an impossible one is put right here.
    const panels = this.get("panels");
    const selected = this.get("selected");
    const panel = panels[selected];
    if (!panel) return;
    const fixed = this.fixedTraits(key, panel);
    const changes = Object.entries(fixed).filter(([name, value]) => this.get(name) !== value);
    if (changes.length) this.setQuietly(Object.fromEntries(changes));
    const after = Object.fromEntries(PANEL_KEYS.map((name) => [name, this.get(name)]));
    if (PANEL_KEYS.every((name) => panel[name] === after[name])) return;
    this.set({ panels: panels.with(selected, { ...panel, ...after }) });
  }

  fixedTraits(key, panel) {
    const network = this.network();
    const fixed = {};
    if (network && !network.methods.includes(this.get("method"))) {
      fixed.method = network.methods[0];
    }
    if (network?.layers) {
      fixed.layer = clamp(this.get("layer"), 1, network.layers);
      fixed.head = clamp(this.get("head"), 0, network.heads);
    }
    // Who chooses a method or a layer wants to see a map.
    const choosesMap = ["method", "layer", "head"].includes(key);
    if (choosesMap && panel.shows !== "map" && this.ready) fixed.shows = "map";
    return fixed;
  }

  adopt() {
    // Patches from outside stand at the end of the list.
    const added = this.get("added");
    const { patches } = this.catalogue;
    patches.splice(patches.length - this.nAdded, Infinity, ...added);
    this.nAdded = added.length;
  }

  later(...parts) {
    // Draws these parts in the next frame, each once.
    parts.forEach((part) => this.dirty.add(part));
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      const dirty = new Set(this.dirty);
      this.dirty.clear();
      this.update(dirty);
      this.ready = true;
    });
  }

  update(dirty) {
    if (dirty.has("filter")) {
      this.strip.filter();
      this.strip.showSelected();
    }
    if (dirty.has("panels")) this.panels.arrange();
    if (dirty.has("filter") || dirty.has("strip")) this.strip.draw();
    if (dirty.has("load")) {
      this.panels.load();
      this.grid.load();
    }
    if (dirty.has("side")) this.probabilityBars.draw();
    if (dirty.has("side") || dirty.has("load")) this.grid.draw();
    this.panels.draw();
    this.readings.again();
    this.controls.show();
    this.notes.show();
  }

  // ----- building

  build() {
    this.root.classList.add("her2");
    // JupyterLab's own keys stay away from ours.
    this.root.setAttribute("data-lm-suppress-shortcuts", "true");
    this.status = make("p", { className: "status", role: "status", ariaLive: "polite" });
    this.keys = make("details", { className: "help" }, make("summary", {}, "Keys"), KEYS_HELP);
    const hint = `Click a map of attention to see where the token there looks. ${RESEARCH}`;
    const stage = make("div", { className: "stage" },
      this.panels.node, this.readings.node, this.status, this.makeTools(), this.keys,
      make("p", { className: "help" }, hint));
    const side = make("div", { className: "side" },
      this.controls.node, this.probabilityBars.node, this.grid.node, this.notes.node);
    const main = make("div", { className: "main" }, stage, side);
    this.root.append(this.controls.filters, this.strip.node, main);
    this.say("");
  }

  makeTools() {
    const fromCls = "Attention of the token that the score is read from (Esc)";
    const tools = make("div", { className: "tools" },
      makeButton("Screenshot", () => saveScreenshot(this), "PNG of the panels with a caption"),
      makeButton("Whole patch", () => this.zoom.to(1), "Zoom out (0)"),
      makeButton("From CLS", () => this.set({ token: [] }), fromCls));
    if (this.source.addFile) tools.append(this.makeOpener());
    return tools;
  }

  makeOpener() {
    // A button for a patch from outside, which may also be dropped anywhere on the explorer.
    const input = make("input", { type: "file", accept: "image/*", tabIndex: -1 });
    input.className = "hidden";
    input.addEventListener("change", () => this.addFile(input.files[0]));
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.addFile(event.dataTransfer.files[0]);
    });
    const title = "Or drop a patch here; it is scored, not kept";
    return make("span", {}, makeButton("Open a file …", () => input.click(), title), input);
  }

  async addFile(file) {
    if (!file) return;
    if (file.size > MOST_FILE_BYTES) {
      const size = `${file.name} has ${(file.size / 1e6).toFixed(0)} MB`;
      this.say(`${size}, more than the notebook takes (8): make a study of its folder.`);
      return;
    }
    this.say(`Reading ${file.name} …`);
    try {
      await this.source.addFile(file);
      this.say(`${file.name} was read and scored; it is not kept.`);
    } catch (error) {
      this.say(error.message);
    }
  }

  say(text) {
    const anyNetwork = this.catalogue.networks.length > 0;
    this.status.textContent = text || (anyNetwork ? "" : this.unfinished());
  }

  unfinished() {
    return "No network of this study has finished, so there are no maps yet: "
      + `run “her2 run ${this.catalogue.study}” in a terminal, then open this again.`;
  }

  // ----- keys

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ofSlider = event.target.type === "range" && SLIDER_KEYS.includes(event.key);
    if (ofSlider || isTyping(event.target)) {
      // JupyterLab would keep the arrow keys of our sliders and menus from them.
      event.stopPropagation();
      return;
    }
    if (!this.act(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  act({ key, shiftKey }) {
    // Whether a key did something.
    if (shiftKey && MOVE_KEYS[key]) this.zoom.move(...MOVE_KEYS[key]);
    else if (TOKEN_KEYS[key]) this.panels.nudgeToken(...TOKEN_KEYS[key]);
    else if ("1234".includes(key) && this.panels.views[key - 1]) {
      this.panels.views[key - 1].figure.focus();
    } else return this.actOnOne(key);
    return true;
  }

  actOnOne(key) {
    switch (key) {
      case "ArrowLeft": this.strip.go(-1); break;
      case "ArrowRight": this.strip.go(1); break;
      case "PageUp": this.strip.go(-8); break;
      case "PageDown": this.strip.go(8); break;
      case "Home": this.strip.go(-Infinity); break;
      case "End": this.strip.go(Infinity); break;
      case "+":
      case "=": this.zoom.by(1.4); break;
      case "-": this.zoom.by(1 / 1.4); break;
      case "0": this.zoom.to(1); break;
      case "[": this.grid.step(-1, 0); break;
      case "]": this.grid.step(1, 0); break;
      case ",": this.grid.step(0, -1); break;
      case ".": this.grid.step(0, 1); break;
      case "t": this.set({ token: [0.5, 0.5] }); break;
      case "Escape": this.set({ token: [] }); break;
      case "p": saveScreenshot(this); break;
      case "?": this.keys.open = !this.keys.open; break;
      default: return false;
    }
    return true;
  }
}

function isTyping(node) {
  return node.closest("input:not([type=range]):not([type=checkbox]), textarea, select") !== null;
}

// ---------- two ways in: a page that holds its answers, a widget that asks a kernel

function startPage(root) {
  const content = JSON.parse(document.getElementById("her2-data").textContent);
  const { catalogue } = content;
  const model = new PageState(content.state);
  const source = new PageSource(content.records, content.sidecars);
  const store = new BrowserNotes(catalogue.study);
  root.explorer = new Explorer(root, { model, source, store, catalogue });
  root.prepend(make("header", {},
    make("h1", {}, `HER2 explorer: study “${catalogue.study}”`), make("p", {}, RESEARCH)));
}

function render({ model, el }) {
  const root = make("div");
  const catalogue = structuredClone(model.get("catalogue"));
  const source = new KernelSource(model);
  const store = new KernelNotes(source);
  const explorer = new Explorer(root, { model, source, store, catalogue });
  root.explorer = explorer;
  el.append(root);
  return () => explorer.close();
}

const page = document.getElementById("her2-explorer");
if (page) startPage(page);

export default { render };
