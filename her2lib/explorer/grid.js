// ---------- the grid of attention, every layer by every head

const GRID_WIDTH = 284;
const GRID_HEIGHT = 264;
const STRETCHED_NOTE =
  "Each cell from its own smallest to its own largest value: faint differences look strong.";
const PLAIN_NOTE =
  "Each cell from 0 to its own largest value: yellow all over is even attention.";
const CELL_STEPS = {
  ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0],
};

class AttentionGrid {
  constructor(explorer) {
    this.explorer = explorer;
    this.canvas = make("canvas", { className: "grid", tabIndex: 0, role: "img" });
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.heading = make("h3", {}, "Attention, layer by head");
    this.note = make("p", { className: "facts" });
    this.node = make("section", {},
      this.heading, make("div", { className: "gridline" }, this.canvas), this.note);
  }

  key() {
    return `attention/${this.explorer.get("patch")}/${this.explorer.get("network")}`;
  }

  async load() {
    const key = this.key();
    if (!this.explorer.network()?.layers || this.loadedKey === key) return;
    this.loadedKey = key;
    try {
      const stack = await this.explorer.panels.stack(key, "grid");
      if (this.loadedKey !== key) return;
      this.stack = stack;
      this.draw();
    } catch (error) {
      if (!(error instanceof StaleRequest)) this.explorer.say(error.message);
      this.loadedKey = null;
    }
  }

  // ----- drawing

  draw() {
    const network = this.explorer.network();
    this.node.hidden = !network?.layers;
    if (!network?.layers || !this.stack || this.loadedKey !== this.key()) return;
    const { layers, heads } = network;
    if (this.stack.shape[0] !== layers * heads) return; // still that of another network
    const side = Math.floor(Math.min(GRID_WIDTH / layers, GRID_HEIGHT / heads));
    const cell = clamp(side, 12, 30);
    this.canvas.width = layers * cell;
    this.canvas.height = heads * cell;
    this.canvas.getContext("2d").drawImage(this.cells(network, cell), 0, 0);
    this.drawFrame(network, cell);
    this.describe(network);
  }

  cells({ layers, heads }, cell) {
    // Every layer and head as a small picture, coloured once per patch: the frame moves over it.
    const stretch = this.explorer.get("stretch");
    const key = `${this.loadedKey} ${stretch} ${cell}`;
    if (this.cellsKey === key) return this.cellsDrawn;
    const canvas = makeCanvas(layers * cell, heads * cell);
    const context = canvas.getContext("2d");
    const small = makeCanvas(1, 1);
    context.imageSmoothingEnabled = false;
    for (let k = 0; k < this.stack.shape[0]; k++) {
      const map = mapAt(this.stack, k);
      const x = Math.floor(k / heads) * cell;
      const y = (k % heads) * cell;
      colourMap(map, colourRange(map, false, stretch), false, 0, small);
      context.drawImage(small, x, y, cell - 2, cell - 2);
    }
    this.cellsKey = key;
    this.cellsDrawn = canvas;
    return canvas;
  }

  drawFrame({ heads }, cell) {
    // Around the chosen layer and head; around the whole layer for the mean of its heads.
    const layer = this.explorer.get("layer");
    const head = this.explorer.get("head");
    const x = (layer - 1) * cell;
    const y = head ? (head - 1) * cell : 0;
    const height = head ? cell : heads * cell;
    const context = this.canvas.getContext("2d");
    context.lineWidth = 3;
    context.strokeStyle = "#c2185b";
    context.strokeRect(x + 0.5, y + 0.5, cell - 3, height - 3);
  }

  describe({ layers, heads }) {
    const layer = this.explorer.get("layer");
    const head = this.explorer.get("head");
    const chosen = head ? `head ${head} of ${heads}` : "mean of heads";
    const label = `Layer ${layer} of ${layers}, ${chosen}; arrow keys choose`;
    this.canvas.setAttribute("aria-label", label);
    setText(this.heading, `Attention from CLS: layers 1 to ${layers} →, heads 1 to ${heads} ↓`);
    setText(this.note, this.explorer.get("stretch") ? STRETCHED_NOTE : PLAIN_NOTE);
  }

  // ----- choosing

  click(event) {
    const { layers, heads } = this.explorer.network();
    const box = this.canvas.getBoundingClientRect();
    const layer = Math.floor(((event.clientX - box.left) / box.width) * layers) + 1;
    const head = Math.floor(((event.clientY - box.top) / box.height) * heads) + 1;
    this.choose(clamp(layer, 1, layers), clamp(head, 1, heads));
  }

  press(event) {
    const step = CELL_STEPS[event.key];
    if (!step) return;
    this.step(...step);
    event.preventDefault();
    event.stopPropagation();
  }

  step(layerStep, headStep) {
    const network = this.explorer.network();
    if (!network?.layers) return;
    const layer = clamp(this.explorer.get("layer") + layerStep, 1, network.layers);
    const head = clamp(this.explorer.get("head") + headStep, 0, network.heads);
    this.choose(layer, head);
  }

  choose(layer, head) {
    this.explorer.set({ method: "attention", layer, head });
  }
}
