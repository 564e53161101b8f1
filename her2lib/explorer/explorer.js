// The explorer: any patch through any network, by hand. This one file draws the Jupyter widget and the page that needs no kernel.
// Both ask a source for answers by key ("map/3/<run>/grad_cam/2"): the widget's source is the kernel, the page's are the same
// answers written down. File names are strangers' words: they become text nodes, never markup.

const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const DIVERGING = ["#3f1a86", "#6a4bb0", "#b2abd2", "#f7f7f7", "#fdb863", "#f0861a", "#d95f02"]; // PuOr, whose darkest ends look like tissue
const OF_PANEL = ["shows", "network", "method", "layer", "head"];
const FILTERS = ["search", "truth", "predicted", "verdict", "sure_from", "sure_to", "disagree", "doubt"];
const DRAWN_ONLY = ["opacity", "threshold", "smooth"]; // nothing is loaded and nothing beside the panels changes: a slider stays quick
const OD_MAX = 1.5; // end of the stain panels' scale, optical density
const SMOOTH_PX = 256; // maps are interpolated to this many px before they are coloured
const FAINTEST = 0.2; // opacity of the smallest value, as a share of the largest value's: tissue stays visible where a map is low
const THUMB_PX = 104;
const STACK_BYTES = 5e6, PICTURE_PX = 2.2e6, LEAST_PX = 2e5, SIDECARS = 8; // what is kept of what was seen: two pictures of 1024 px, eleven small ones
const SLOW_MS = 300; // a map that takes longer says that it is being computed
const REST = "Rest the pointer on a panel to read values.";
const IN_DOUBT = 0.5; // of 0..1, from label review
const PAGE = "her2-explorer";
const RESEARCH = "Research use only: a patch-level score is not an ASCO/CAP score.";

// ---------- small tools

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children); // strings become text nodes
  return node;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const percent = (value) => `${Math.round(100 * value)} %`;

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return (size >= 1000 || size < 0.001 ? value.toExponential(1) : value.toPrecision(3)).replaceAll("-", "−");
}

function ramp(stops) {
  // (256,3) colours between the stops
  const rgb = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  const table = new Uint8Array(768);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (rgb.length - 1), k = Math.min(Math.floor(place), rgb.length - 2);
    for (let c = 0; c < 3; c++) table[3 * i + c] = Math.round(rgb[k][c] + (place - k) * (rgb[k + 1][c] - rgb[k][c]));
  }
  return table;
}
const RAMPS = { false: ramp(VIRIDIS), true: ramp(DIVERGING) }; // by signed

function blank(width, height) {
  return make("canvas", { width, height });
}

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name.replace(/[^\w.+-]+/g, "_") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

class Recent {
  // the last things asked for, so that 500 patches cost no more memory than 20
  constructor(most, weight = () => 1, drop = () => {}) {
    Object.assign(this, { most, weight, drop, kept: new Map(), held: 0 });
  }
  get(key) {
    const value = this.kept.get(key);
    if (value !== undefined) this.kept.delete(key), this.kept.set(key, value);
    return value;
  }
  set(key, value) {
    this.kept.set(key, value), (this.held += this.weight(value));
    while (this.held > this.most && this.kept.size > 1) {
      const [oldest, gone] = this.kept.entries().next().value;
      this.kept.delete(oldest), (this.held -= this.weight(gone)), this.drop(gone);
    }
    return value;
  }
}

// ---------- maps: quantised stacks, values, colours

function slice(stack, k) {
  // {h, w, values} map k of a stack, in its own unit
  const [, h, w] = stack.shape, low = stack.low[k], step = (stack.high[k] - low) / 255;
  return { h, w, values: Float32Array.from(stack.bytes.subarray(k * h * w, (k + 1) * h * w), (q) => low + q * step) };
}

function mean(stack, from, count) {
  const sum = slice(stack, from);
  for (let k = 1; k < count; k++) slice(stack, from + k).values.forEach((value, i) => (sum.values[i] += value));
  sum.values.forEach((value, i) => (sum.values[i] = value / count));
  return sum;
}

function largest(map) {
  let most = 0;
  for (const value of map.values) most = Math.max(most, Math.abs(value));
  return most || 1;
}

function bilinear(map, side) {
  // a map of side x side values; the centre of a map's cell stays where it is
  const { h, w, values } = map, out = new Float32Array(side * side);
  const at = (i, n) => {
    const place = clamp(((i + 0.5) * n) / side - 0.5, 0, n - 1), k = Math.min(Math.floor(place), Math.max(n - 2, 0));
    return [k, Math.min(k + 1, n - 1), place - k];
  };
  const across = Array.from({ length: side }, (_, i) => at(i, w));
  for (let y = 0; y < side; y++) {
    const [top, bottom, fy] = at(y, h), up = top * w, down = bottom * w;
    for (let x = 0; x < side; x++) {
      const [left, right, fx] = across[x];
      const a = values[up + left] + fx * (values[up + right] - values[up + left]);
      const b = values[down + left] + fx * (values[down + right] - values[down + left]);
      out[y * side + x] = a + fy * (b - a);
    }
  }
  return { h: side, w: side, values: out };
}

function range(map, signed, stretch) {
  // [low, high] of the colour scale: symmetric for signed maps, else from 0, or from the smallest value when stretched
  const most = largest(map);
  return signed ? [-most, most] : [stretch ? map.values.reduce((low, value) => Math.min(low, value)) : 0, most];
}

function coloured(map, [low, high], signed, threshold, canvas = blank(map.w, map.h)) {
  // canvas with a map in colour; opacity grows with the value, what lies below the threshold is transparent
  canvas.width = map.w, canvas.height = map.h;
  const context = canvas.getContext("2d"), image = context.createImageData(map.w, map.h), table = RAMPS[signed], data = image.data;
  for (let i = 0; i < map.values.length; i++) {
    const share = clamp((map.values[i] - low) / (high - low || 1), 0, 1), at = 3 * Math.round(255 * share), size = signed ? Math.abs(2 * share - 1) : share;
    data[4 * i] = table[at], data[4 * i + 1] = table[at + 1], data[4 * i + 2] = table[at + 2];
    data[4 * i + 3] = size >= threshold ? 255 * (FAINTEST + (1 - FAINTEST) * size) : 0;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function distance(map, row, column, side_px) {
  // mean distance from a token to where its attention goes, in px of the patch
  let sum = 0, weight = 0;
  const [down, across] = [side_px / map.h, side_px / map.w];
  map.values.forEach((value, i) => {
    sum += value * Math.hypot((Math.floor(i / map.w) - row) * down, ((i % map.w) - column) * across);
    weight += value;
  });
  return weight ? sum / weight : 0;
}

// ---------- pictures: the patch, grey, and its stains

class Picture {
  constructor(canvas, header, stains) {
    Object.assign(this, { canvas, side_px: header.side_px, stains, made: {} });
    this.width = canvas.width;
  }
  pixels() {
    return (this.made.pixels ??= this.canvas.getContext("2d").getImageData(0, 0, this.width, this.width).data);
  }
  density(stain, x, y) {
    // optical density of one stain in one pixel, base 10 (Ruifrok 2001), as her2lib.stain.unmix without white balance
    const data = this.pixels(), at = 4 * (y * this.width + x), { inverse } = this.stains[stain];
    return [0, 1, 2].reduce((sum, c) => sum + Math.log10(255 / Math.max(1, data[at + c])) * inverse[c], 0);
  }
  as(kind) {
    if (kind !== "grey" && !this.stains[kind]) return this.canvas;
    return (this.made[kind] ??= this.recoloured(kind));
  }
  recoloured(kind) {
    const source = this.pixels(), canvas = blank(this.width, this.width), context = canvas.getContext("2d");
    const image = context.createImageData(this.width, this.width), data = image.data, stain = this.stains[kind];
    const log = Float32Array.from({ length: 256 }, (_, value) => Math.log10(255 / Math.max(1, value)));
    const light = stain && stain.vector.map((v) => Uint8Array.from({ length: 256 }, (_, i) => 255 * 10 ** (-v * 2 * OD_MAX * (i / 255))));
    for (let i = 0; i < data.length; i += 4) {
      if (stain) {
        const od = log[source[i]] * stain.inverse[0] + log[source[i + 1]] * stain.inverse[1] + log[source[i + 2]] * stain.inverse[2];
        const at = clamp(Math.round((255 * od) / (2 * OD_MAX)), 0, 255);
        for (let c = 0; c < 3; c++) data[i + c] = light[c][at];
      } else data[i] = data[i + 1] = data[i + 2] = (source[i] + source[i + 1] + source[i + 2]) / 3;
      data[i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }
}

// ---------- state: plain in the page, the widget model's traits in the notebook

class PageState {
  constructor(values) {
    this.values = { ...values }, this.heard = [];
  }
  get(key) {
    return this.values[key];
  }
  set(changes) {
    const changed = Object.keys(changes).filter((key) => JSON.stringify(this.values[key]) !== JSON.stringify(changes[key]));
    Object.assign(this.values, changes);
    changed.forEach((key) => this.heard.forEach((tell) => tell(key)));
  }
  on(tell) {
    this.heard.push(tell);
    return () => {};
  }
}

class ModelState {
  constructor(model, keys) {
    Object.assign(this, { model, keys });
  }
  get(key) {
    return this.model.get(key);
  }
  set(changes) {
    for (const [key, value] of Object.entries(changes)) this.model.set(key, value);
    this.model.save_changes();
  }
  on(tell) {
    const pairs = this.keys.map((key) => [`change:${key}`, () => tell(key)]);
    pairs.forEach(([event, call]) => this.model.on(event, call));
    return () => pairs.forEach(([event, call]) => this.model.off(event, call));
  }
}

// ---------- sources of answers {…header, bytes}

class PageSource {
  constructor(records, sidecars) {
    Object.assign(this, { records, sidecars, loading: {}, beside: new Recent(SIDECARS) });
    globalThis.her2Sidecar = (more) => (this.arrived = more);
  }
  async ask(key) {
    const found = this.records[key] ?? (await this.sidecar(key.split("/")[1]))?.[key];
    if (!found) throw new Error("This page does not hold that map; the notebook 90_explorer computes it.");
    return { ...found[0], bytes: Uint8Array.from(atob(found[1]), (letter) => letter.charCodeAt(0)) };
  }
  sidecar(patch) {
    const src = this.sidecars[patch], kept = src && this.beside.get(src); // a script tag: a page opened from a folder may not fetch its neighbours
    if (!src || kept) return kept;
    return (this.loading[src] ??= new Promise((done, failed) => {
      const over = () => (tag.remove(), delete this.loading[src]);
      const onload = () => (over(), done(this.beside.set(src, this.arrived)));
      const onerror = () => (over(), failed(new Error(`${src} is missing: copy that folder together with this page.`)));
      const tag = make("script", { src, onload, onerror });
      document.head.append(tag);
    }));
  }
}

class KernelSource {
  constructor(model) {
    Object.assign(this, { model, asked: new Map(), waiting: new Map(), count: 0 });
    this.hear = (message, buffers) => this.answer(message, buffers);
    model.on("msg:custom", this.hear);
  }
  ask(key, slot = key) {
    // per slot only the last wish counts: who holds an arrow key down waits for one patch, not for all that went by
    return new Promise((resolve, reject) => {
      this.waiting.get(slot)?.reject(new Stale());
      this.waiting.delete(slot), this.waiting.set(slot, { key, resolve, reject });
      this.next();
    });
  }
  next() {
    while (this.asked.size < 2 && this.waiting.size) {
      const [slot, wish] = [...this.waiting].find(([name]) => !name.startsWith("thumb/")) ?? [...this.waiting].pop();
      this.waiting.delete(slot);
      this.asked.set(++this.count, wish);
      this.model.send({ ask: wish.key, id: this.count });
    }
  }
  answer({ id, header, error }, buffers) {
    const wish = this.asked.get(id);
    if (!wish) return; // another view of the same widget asked
    this.asked.delete(id);
    if (error) wish.reject(new Error(error));
    else wish.resolve({ ...header, bytes: buffers.length ? new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength) : null });
    this.next();
  }
  async take(file) {
    const bytes = await file.arrayBuffer();
    return new Promise((resolve, reject) => {
      this.asked.set(++this.count, { resolve, reject });
      this.model.send({ take: file.name, id: this.count }, undefined, [bytes]);
    });
  }
  close() {
    this.model.off("msg:custom", this.hear);
  }
}

class Stale extends Error {}

// ---------- the explorer itself

class Explorer {
  constructor(root, state, source, catalogue) {
    Object.assign(this, { root, state, source, catalogue, rows: [], panels: [], view: { x: 0.5, y: 0.5, zoom: 1 }, dirty: new Set() });
    this.networks = Object.fromEntries(catalogue.networks.map((network) => [network.run, network]));
    this.pictures = new Recent(PICTURE_PX, ({ width }) => Math.max(width * width, LEAST_PX)), this.stacks = new Recent(STACK_BYTES, ({ bytes }) => bytes.length);
    this.thumbs = new Recent(400, () => 1, (url) => URL.revokeObjectURL(url));
    root.classList.add("her2");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own keys stay away from ours
    this.build();
    this.off = state.on((key) => this.heard(key));
    this.sized = new ResizeObserver(() => this.later("strip", "draw"));
    this.sized.observe(root);
    this.later("filter", "panels", "load", "side", "draw");
  }

  close() {
    this.off(), this.sized.disconnect(), this.source.close?.(), this.thumbs.kept.forEach((url) => URL.revokeObjectURL(url));
  }

  get(key) {
    return this.state.get(key);
  }
  set(changes) {
    this.state.set(changes);
  }
  patch() {
    return this.catalogue.patches[this.get("patch")] ?? this.catalogue.patches[0];
  }
  probabilities(patch, run = this.get("network")) {
    return patch.p[run] ?? null;
  }
  predicted(patch, run) {
    const p = this.probabilities(patch, run);
    return p ? p.indexOf(Math.max(...p)) : -1;
  }
  score(number) {
    return this.catalogue.scores[number] ?? "?";
  }

  // ----- what a change of state leads to

  heard(key) {
    if (key === "selected") {
      const panel = this.get("panels")[this.get("selected")];
      if (panel) this.quietly(Object.fromEntries(OF_PANEL.map((name) => [name, panel[name]])));
    }
    if (OF_PANEL.includes(key) && !this.quiet) this.keep(key);
    if (key === "extra") this.adopt();
    if (FILTERS.includes(key) || key === "network" || key === "extra") this.later("filter");
    if (key === "place") this.placed = true;
    if (key === "patch") this.say(""), this.later("strip"), this.scrollTo(this.rows.indexOf(this.get("patch")));
    if (key === "panels" || key === "selected") this.later("panels");
    if (["patch", "network", "extra"].includes(key)) this.later("side");
    this.later("draw", ...(DRAWN_ONLY.includes(key) ? [] : ["load"]));
  }

  quietly(changes) {
    this.quiet = true; // a widget model tells of each key at once, when the others are still the last panel's
    this.set(changes);
    this.quiet = false;
  }

  keep(key) {
    // the flat values are those of the selected panel; an impossible one is put right here, once for both drawings
    const panels = this.get("panels").map((panel) => ({ ...panel })), panel = panels[this.get("selected")];
    const network = this.networks[this.get("network")], fix = {};
    if (!panel) return;
    if (network && !network.methods.includes(this.get("method"))) fix.method = network.methods[0];
    if (network?.layers) {
      fix.layer = clamp(this.get("layer"), 1, network.layers), fix.head = clamp(this.get("head"), 0, network.heads);
    }
    if (["method", "layer", "head"].includes(key) && panel.shows !== "map" && this.ready) fix.shows = "map";
    const after = Object.fromEntries(OF_PANEL.map((name) => [name, fix[name] ?? this.get(name)]));
    const odd = Object.entries(fix).filter(([name, value]) => this.get(name) !== value);
    if (odd.length) this.quietly(Object.fromEntries(odd));
    if (JSON.stringify({ ...panel, ...after }) === JSON.stringify(panel)) return;
    panels[this.get("selected")] = { ...panel, ...after };
    this.set({ panels });
  }

  later(...what) {
    what.forEach((part) => this.dirty.add(part));
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      const parts = new Set(this.dirty);
      this.dirty.clear();
      if (parts.has("filter")) this.filter(), this.scrollTo(this.rows.indexOf(this.get("patch")));
      if (parts.has("panels")) this.layPanels();
      if (parts.has("filter") || parts.has("strip")) this.drawStrip();
      if (parts.has("load")) this.load();
      if (parts.has("side")) this.drawSide();
      else if (parts.has("load")) this.drawGrid();
      this.draw();
      this.ready = true;
    });
  }

  adopt() {
    // patches dropped into the notebook stand at the end of the list
    const known = this.catalogue.patches.length - (this.adopted ?? 0), extra = this.get("extra");
    this.catalogue.patches.splice(known, Infinity, ...extra);
    this.adopted = extra.length;
  }

  // ----- building

  build() {
    this.strip = make("div", { className: "strip", tabIndex: 0, role: "listbox", ariaLabel: "Patches; arrow keys go on" });
    this.belt = make("div", { className: "belt" });
    this.strip.append(this.belt);
    this.strip.addEventListener("scroll", () => this.later("strip"), { passive: true });
    this.count = make("p", { className: "count", role: "status" });
    this.row = make("div", { className: "panels" });
    this.values = make("p", { className: "values" }, REST);
    this.status = make("p", { className: "status", role: "status", ariaLive: "polite" });
    this.say("");
    this.side = make("div", { className: "side" });
    this.bars = make("section", { className: "bars", ariaLabel: "Probabilities" });
    this.grid = make("canvas", { className: "grid", tabIndex: 0, role: "img" });
    this.gridHead = make("h3", {}, "Attention, layer by head");
    this.gridNote = make("p", { className: "facts" });
    this.gridBox = make("section", {}, this.gridHead, make("div", { className: "gridline" }, this.grid), this.gridNote);
    this.grid.addEventListener("click", (event) => this.pickCell(event));
    this.grid.addEventListener("keydown", (event) => this.stepCell(event));
    this.tools = make("div", { className: "tools" },
      this.button("Screenshot", () => this.screenshot(), "PNG of the panels with a caption"),
      this.button("Whole patch", () => this.zoomTo(1), "Zoom out (0)"),
      this.button("From CLS", () => this.set({ place: [] }), "Attention of the token that the score is read from (Esc)"));
    if (this.source.take) this.tools.append(this.opener());
    this.side.append(this.bars, this.gridBox);
    this.root.append(this.strip, this.count, make("div", { className: "main" },
      make("div", { className: "stage" }, this.row, this.values, this.status, this.tools, ...this.help()), this.side));
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  button(text, onclick, title = "") {
    return make("button", { type: "button", title, onclick, ...(text.length < 2 && { ariaLabel: title }) }, text);
  }

  help() {
    const keys = "← → patch · Home, End first and last · 1-4 panel · + − zoom, 0 whole patch · Shift and arrows move · [ ] layer · , . head · T token, I J K L move it, Esc CLS · P screenshot · ? this list";
    this.keys = make("details", { className: "help" }, make("summary", {}, "Keys"), keys);
    return [this.keys, make("p", { className: "help" }, `Click a map of attention to see where the token there looks. ${RESEARCH}`)];
  }

  unfinished() {
    return `No network of this study has finished, so there are no maps yet: run “her2 run ${this.catalogue.study}” in a terminal, then open this again.`;
  }

  opener() {
    const input = make("input", { type: "file", accept: "image/*", className: "hidden", tabIndex: -1, onchange: () => this.take(input.files[0]) });
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    });
    return make("span", {}, this.button("Open a file …", () => input.click(), "Or drop a patch here; it is scored, not kept"), input);
  }

  async take(file) {
    if (!file) return;
    if (file.size > 8e6) return this.say(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB, more than the notebook takes (8): make a study of its folder.`);
    this.say(`Reading ${file.name} …`);
    try {
      await this.source.take(file);
      this.say(`${file.name} was read and scored; it is not kept.`);
    } catch (error) {
      this.say(error.message);
    }
  }

  say(text) {
    this.status.textContent = text || (this.catalogue.networks.length ? "" : this.unfinished());
  }

  // ----- the strip

  filter() {
    const wish = Object.fromEntries(FILTERS.map((key) => [key, this.get(key)])), word = wish.search.trim().toLowerCase();
    this.rows = [];
    this.catalogue.patches.forEach((patch, i) => {
      const answer = this.predicted(patch), p = this.probabilities(patch), sure = p ? 100 * Math.max(...p) : null;
      const right = answer < 0 || patch.truth < 0 ? "unknown" : answer === patch.truth ? "right" : "wrong";
      const fits = patch.extra || ((!word || patch.name.toLowerCase().includes(word))
        && (wish.truth === "any" || this.score(patch.truth) === wish.truth)
        && (wish.predicted === "any" || this.score(answer) === wish.predicted)
        && (wish.verdict === "any" || right === wish.verdict)
        && (sure === null ? wish.sure_from <= 0 : sure >= wish.sure_from && sure <= wish.sure_to)
        && (!wish.disagree || new Set(Object.values(patch.raters)).size > 1)
        && (!wish.doubt || patch.doubt >= IN_DOUBT));
      if (fits) this.rows.push(i);
    });
    if (wish.doubt) this.rows.sort((a, b) => this.catalogue.patches[b].doubt - this.catalogue.patches[a].doubt);
    const all = this.catalogue.patches.length, reviewed = this.catalogue.patches.some((patch) => patch.doubt !== null);
    const why = wish.doubt && !reviewed ? "No label review has been run for this study (notebook 09_label_review)" : "Widen the filters to see some";
    const empty = this.rows.length ? "" : ` ${why}; the panels still show the last one.`;
    this.count.textContent = `${this.rows.length} of ${all} patches.${empty}`;
    this.belt.style.width = `${this.rows.length * THUMB_PX}px`;
    if (this.rows.length && !this.rows.includes(this.get("patch"))) this.set({ patch: this.rows[0] });
  }

  drawStrip() {
    // only what is in sight has an element, so that 5,000 patches cost 20
    const from = Math.max(0, Math.floor(this.strip.scrollLeft / THUMB_PX) - 2), many = Math.ceil((this.strip.clientWidth || 800) / THUMB_PX) + 4;
    const like = this.striped?.rows === this.rows && this.striped.network === this.get("network") ? this.striped.options : new Map();
    const options = new Map(this.rows.slice(from, from + many).map((i, k) => [i, like.get(i) ?? this.thumb(i, from + k)]));
    this.striped = { rows: this.rows, network: this.get("network"), options };
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === this.get("patch"))));
    if ([...options.values()].some((option, k) => this.belt.children[k] !== option) || this.belt.children.length > options.size) this.belt.replaceChildren(...options.values());
    this.strip.setAttribute("aria-activedescendant", `${this.id()}-${this.get("patch")}`);
  }

  id() {
    return (this.own ??= `her2-${Math.random().toString(36).slice(2, 8)}`);
  }

  thumb(i, place) {
    const patch = this.catalogue.patches[i], answer = this.predicted(patch), image = make("img", { alt: "", width: 88, height: 88 });
    const mark = answer < 0 || patch.truth < 0 ? "" : answer === patch.truth ? " ✓" : " ✗";
    const words = `${this.score(patch.truth)} → ${this.score(answer)}${mark}`;
    const option = make("div", { id: `${this.id()}-${i}`, className: "thumb", role: "option", onclick: () => this.set({ patch: i }) },
      image, make("span", { className: "words" }, words), make("span", { className: "name" }, patch.name));
    option.setAttribute("aria-setsize", String(this.rows.length));
    option.setAttribute("aria-posinset", String(place + 1));
    const sure = answer < 0 ? "" : `, ${percent(this.probabilities(patch)[answer])} sure`;
    option.title = `${patch.name}: true ${this.score(patch.truth)}, predicted ${this.score(answer)}${sure}`;
    option.setAttribute("aria-label", option.title);
    option.style.left = `${place * THUMB_PX}px`;
    option.classList.toggle("wrong", mark === " ✗");
    this.loadThumb(i, image);
    return option;
  }

  async loadThumb(i, image) {
    const key = `thumb/${i}`, kept = this.thumbs.get(key);
    if (kept) return (image.src = kept);
    try {
      const answer = await this.source.ask(key);
      const url = this.thumbs.get(key) ?? this.thumbs.set(key, URL.createObjectURL(new Blob([answer.bytes], { type: "image/jpeg" })));
      image.src = url;
    } catch (error) {
      if (!(error instanceof Stale)) image.alt = "unreadable";
    }
  }

  scrollTo(place) {
    if (place < 0) return;
    const left = place * THUMB_PX, right = left + THUMB_PX;
    if (left < this.strip.scrollLeft) this.strip.scrollLeft = left;
    else if (right > this.strip.scrollLeft + this.strip.clientWidth) this.strip.scrollLeft = right - this.strip.clientWidth;
  }

  go(step) {
    const at = this.rows.indexOf(this.get("patch")), next = this.rows[clamp(at + step, 0, this.rows.length - 1)];
    if (next !== undefined) this.set({ patch: next });
  }

  // ----- the panels

  layPanels() {
    const wanted = this.get("panels").length;
    while (this.panels.length > wanted) this.panels.pop().figure.remove();
    while (this.panels.length < wanted) this.panels.push(this.newPanel(this.panels.length));
    this.row.style.setProperty("--panels", wanted);
    this.panels.forEach((panel, k) => panel.figure.classList.toggle("selected", k === this.get("selected")));
  }

  newPanel(k) {
    const canvas = make("canvas", { className: "view" }), bar = make("canvas", { className: "bar", width: 256, height: 10 });
    const low = make("span"), high = make("span"), unit = make("p", { className: "unit" }), title = make("figcaption");
    const legend = make("div", { className: "legend" }, low, bar, high);
    const figure = make("figure", { className: "panel", tabIndex: 0, role: "group", onfocus: () => this.set({ selected: k }) }, title, canvas, legend, unit);
    this.row.append(figure);
    const panel = { figure, canvas, bar, low, high, unit, title, legend, overlay: blank(1, 1), touches: new Map() };
    this.listen(panel, canvas, k);
    return panel;
  }

  listen(panel, canvas, k) {
    canvas.addEventListener("pointerdown", (event) => {
      panel.touches.set(event.pointerId, event), (panel.moved = 0), canvas.setPointerCapture(event.pointerId);
      this.set({ selected: k });
    });
    canvas.addEventListener("pointermove", (event) => (panel.touches.has(event.pointerId) ? this.drag(panel, event) : this.read(k, this.place(panel, event))));
    canvas.addEventListener("pointerleave", () => this.rest());
    canvas.addEventListener("pointerup", (event) => {
      if (panel.touches.size === 1 && panel.moved < 5) this.pickToken(this.place(panel, event), k);
      panel.touches.delete(event.pointerId);
    });
    canvas.addEventListener("pointercancel", (event) => panel.touches.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      if (!panel.figure.contains(document.activeElement)) return; // an unfocused panel lets the page scroll by
      event.preventDefault();
      this.zoomTo(this.view.zoom * 1.2 ** (event.deltaY < 0 ? 1 : -1), this.place(panel, event));
    }, { passive: false });
  }

  place(panel, event) {
    // {x, y} in 0..1 of the patch under the pointer
    const box = panel.canvas.getBoundingClientRect(), { left, top, side } = this.window();
    return { x: left + side * ((event.clientX - box.left) / box.width), y: top + side * ((event.clientY - box.top) / box.height) };
  }

  window() {
    const side = 1 / this.view.zoom;
    return { side, left: clamp(this.view.x - side / 2, 0, 1 - side), top: clamp(this.view.y - side / 2, 0, 1 - side) };
  }

  drag(panel, event) {
    const before = panel.touches.get(event.pointerId), { width } = panel.canvas.getBoundingClientRect();
    const others = [...panel.touches.values()].filter((touch) => touch.pointerId !== event.pointerId);
    panel.moved += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    panel.touches.set(event.pointerId, event);
    if (others.length) {
      const apart = (touch) => Math.hypot(touch.clientX - others[0].clientX, touch.clientY - others[0].clientY) || 1;
      return this.zoomTo((this.view.zoom * apart(event)) / apart(before));
    }
    this.move(-(event.clientX - before.clientX) / width, -(event.clientY - before.clientY) / width);
  }

  move(right, down) {
    const { left, top, side } = this.window();
    Object.assign(this.view, { x: left + side / 2 + right * side, y: top + side / 2 + down * side });
    this.later("draw");
  }

  zoomTo(zoom, at) {
    const before = this.window(), after = clamp(zoom, 1, 16);
    if (at) {
      // the place under the pointer stays there
      const side = 1 / after, fx = (at.x - before.left) / before.side, fy = (at.y - before.top) / before.side;
      Object.assign(this.view, { x: at.x - fx * side + side / 2, y: at.y - fy * side + side / 2 });
    } else Object.assign(this.view, { x: before.left + before.side / 2, y: before.top + before.side / 2 });
    this.view.zoom = after;
    this.later("draw");
  }

  pickToken(at, k) {
    const inside = [at.x, at.y].map((value) => Math.round(1e4 * clamp(value, 0, 0.9999)) / 1e4);
    const panels = this.get("panels"), clicked = panels[k];
    if (panels.some((panel) => this.attends(panel))) this.placed = true, this.set({ place: inside }), this.later("draw");
    else if (clicked.shows === "map") this.say("This map has no tokens to click: the method Attention of a transformer has.");
  }

  tellToken() {
    // what a click or a key did to the token, said once its map is in sight
    const panels = this.get("panels"), k = panels.findIndex((panel) => this.attends(panel)), view = this.panels[k];
    if (k < 0 || !view) return void (this.placed = false);
    const token = this.token(panels[k]);
    if (!view.map || String(view.token ?? "") !== String(token ?? "")) return; // still on its way
    this.placed = false;
    const reach = view.picture ? this.reach(panels[k], view).replace(", mean distance", ": on average it looks") : "";
    this.say(token ? `Attention now starts from the token in row ${token[0] + 1}, column ${token[1] + 1}${reach && `${reach} away`}. Esc goes back.`
      : "Attention starts from CLS again, the token that the score is read from.");
  }

  attends(panel) {
    return panel.shows === "map" && panel.method === "attention" && this.networks[panel.network]?.layers > 0;
  }

  token(panel) {
    // [row, column] of the token that a panel's attention starts from, or null for the token the score is read from
    const [h, w] = this.networks[panel.network].grid, [x, y] = this.get("place");
    return x === undefined ? null : [Math.min(Math.floor(y * h), h - 1), Math.min(Math.floor(x * w), w - 1)];
  }

  explained(panel) {
    // what a map explains: 0..3, "expected" or a cut; "-" for methods that know no score
    const wish = this.get("score"), known = this.catalogue.scores.indexOf(wish);
    if (!this.catalogue.methods[panel.method].scored) return "-";
    return wish === "predicted" ? String(Math.max(0, this.predicted(this.patch(), panel.network))) : known < 0 ? wish : String(known);
  }

  wants(panel) {
    // keys of what a panel needs: its picture and, for a map, a stack and how to read it
    const i = this.get("patch"), patch = this.patch();
    const he = panel.shows === "he" && patch.he, picture = `picture/${i}/${he ? "he" : "ihc"}`;
    if (panel.shows === "he" && !patch.he) return { picture: null, why: "This patch has no HE partner." };
    if (panel.shows !== "map") return { picture };
    if (!this.networks[panel.network]) return { picture: null, why: this.unfinished() };
    if (!this.attends(panel)) return { picture, stack: `map/${i}/${panel.network}/${panel.method}/${this.explained(panel)}`, read: (stack) => slice(stack, 0) };
    const { heads, grid } = this.networks[panel.network], token = this.token(panel), from = (panel.layer - 1) * heads;
    const cls = (stack) => (panel.head ? slice(stack, from + panel.head - 1) : mean(stack, from, heads));
    if (!token) return { picture, stack: `attention/${i}/${panel.network}`, read: cls };
    const head = !panel.head || this.catalogue.page ? "mean" : panel.head - 1; // the page holds token attention as the mean of the heads
    return { picture, token, head, stack: `tokens/${i}/${panel.network}/${panel.layer - 1}/${head}`, read: (stack) => slice(stack, token[0] * grid[1] + token[1]) };
  }

  load() {
    this.get("panels").forEach((panel, k) => this.fill(this.panels[k], this.wants(panel), k));
    const network = this.networks[this.get("network")];
    if (network?.layers) this.fillGrid(`attention/${this.get("patch")}/${network.run}`);
  }

  async fill(view, wish, k) {
    const mark = JSON.stringify([wish, this.get("panels")[k], this.get("patch")]); // layers and heads share a stack: the panel tells them apart
    if (!view || view.mark === mark) return;
    view.mark = mark, (view.asked = performance.now());
    setTimeout(() => view.mark === mark && !view.map && this.later("draw"), SLOW_MS + 20);
    const current = () => view.mark === mark, held = this.pictures.get(wish.picture), known = this.stacks.get(wish.stack);
    if (held && known) {
      // both are here already, as for every layer and head of a patch: drawn in this frame, not in the one after the promises
      Object.assign(view, { picture: held, error: wish.why ?? "", map: wish.read(known), drawn: "", token: wish.token, of: known });
      return;
    }
    try {
      const picture = wish.picture ? await this.picture(wish.picture, `picture${k}`) : null;
      if (current()) Object.assign(view, { picture, map: null, error: wish.why ?? "" }), this.later("draw");
      const stack = wish.stack ? await this.stack(wish.stack, `map${k}`) : null;
      if (current()) Object.assign(view, { map: stack && wish.read(stack), drawn: "", token: wish.token, of: stack }), this.later("draw");
    } catch (error) {
      if (current() && !(error instanceof Stale)) Object.assign(view, { map: null, error: error.message }), this.later("draw");
    }
  }

  async stack(key, slot) {
    return this.stacks.get(key) ?? this.stacks.set(key, await this.source.ask(key, slot));
  }

  async picture(key, slot) {
    const kept = this.pictures.get(key);
    if (kept) return kept;
    const answer = await this.source.ask(key, slot);
    const bitmap = await createImageBitmap(new Blob([answer.bytes], { type: "image/jpeg" }));
    const canvas = blank(bitmap.width, bitmap.height);
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0);
    bitmap.close();
    return this.pictures.get(key) ?? this.pictures.set(key, new Picture(canvas, answer, this.catalogue.stains));
  }

  draw() {
    this.get("panels").forEach((panel, k) => this.panels[k] && this.drawPanel(this.panels[k], panel, k));
    if (this.placed) this.tellToken();
    if (this.pointer) this.read(...this.pointer);
  }

  drawPanel(view, panel, k) {
    const side = Math.max(80, Math.round(view.figure.clientWidth)), sharp = Math.round(side * (window.devicePixelRatio || 1));
    if (view.canvas.width !== sharp) view.canvas.width = view.canvas.height = sharp;
    this.paint(view, panel, view.canvas);
    this.drawLegend(view, panel);
    this.setText(view.title, this.titled(panel, view));
    view.figure.setAttribute("aria-label", `Panel ${k + 1}: ${view.title.textContent}`);
  }

  paint(view, panel, canvas) {
    const context = canvas.getContext("2d", { willReadFrequently: true }), sharp = canvas.width, { left, top, side } = this.window();
    const put = (image) => context.drawImage(image, left * image.width, top * image.height, side * image.width, side * image.height, 0, 0, sharp, sharp);
    context.fillStyle = "#e8e8ea", context.fillRect(0, 0, sharp, sharp);
    if (view.picture) {
      context.imageSmoothingEnabled = side * view.picture.width > sharp / 6;
      put(view.picture.as(panel.shows === "map" ? "grey" : panel.shows));
    }
    if (view.map && panel.shows === "map") {
      this.colour(view, panel);
      context.globalAlpha = this.get("opacity"), context.imageSmoothingEnabled = this.get("smooth");
      put(view.overlay);
      context.globalAlpha = 1;
      if (view.token) this.drawToken(context, view, sharp);
    }
    if (view.error) this.write(context, view.error, sharp);
    else if (!(view.picture && (view.map || panel.shows !== "map")) && performance.now() - view.asked > SLOW_MS)
      this.write(context, view.picture ? "Computing this map …" : "Waiting for an answer. A notebook answers when its running cells are done.", sharp);
    return canvas;
  }

  colour(view, panel) {
    const { signed } = this.catalogue.methods[panel.method], [smooth, threshold, stretch] = ["smooth", "threshold", "stretch"].map((key) => this.get(key));
    const drawn = `${smooth} ${threshold} ${signed} ${stretch}`;
    if (view.drawn === drawn) return;
    view.range = range(view.map, signed, stretch), view.drawn = drawn;
    const map = smooth && view.map.h < SMOOTH_PX ? (view.map.smooth ??= bilinear(view.map, SMOOTH_PX)) : view.map;
    coloured(map, view.range, signed, threshold, view.overlay);
  }

  drawToken(context, view, sharp) {
    const { left, top, side } = this.window(), [row, column] = view.token, [h, w] = [view.map.h, view.map.w];
    const box = [(column / w - left) / side, (row / h - top) / side, 1 / w / side, 1 / h / side].map((value) => value * sharp);
    for (const [width, style] of [[5, "#000"], [2.5, "#fff"]]) {
      context.lineWidth = width, context.strokeStyle = style, context.strokeRect(...box);
    }
  }

  write(context, text, sharp) {
    context.font = `${Math.round(sharp / 24)}px sans-serif`;
    const lines = this.wrapped(context, text, 0.9 * sharp);
    context.fillStyle = "#ffffffe8", context.fillRect(0, 0.38 * sharp, sharp, (0.06 * lines.length + 0.06) * sharp), (context.fillStyle = "#222");
    lines.forEach((line, k) => context.fillText(line, 0.05 * sharp, (0.45 + 0.06 * k) * sharp));
  }

  drawLegend(view, panel) {
    const stain = this.catalogue.stains[panel.shows], shown = (view.map && panel.shows === "map") || (stain && view.picture);
    view.legend.style.visibility = shown ? "visible" : "hidden";
    this.setText(view.unit, shown ? this.unit(panel, view.map) : "");
    if (!shown) return;
    const { signed } = panel.shows === "map" ? this.catalogue.methods[panel.method] : {}, context = view.bar.getContext("2d");
    const rule = stain ? panel.shows : `${signed} ${this.get("threshold")}`;
    this.setText(view.low, stain ? "OD 0" : short(view.range[0]));
    this.setText(view.high, stain ? `${OD_MAX}` : `${signed ? "+" : ""}${short(view.range[1])}`);
    if (view.ruled === rule) return;
    view.ruled = rule;
    const image = context.createImageData(256, 10);
    for (let i = 0; i < 256 * 10; i++) {
      const x = i % 256, share = signed ? Math.abs(x / 127.5 - 1) : x / 255, hidden = !stain && share < this.get("threshold");
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = stain ? 255 * 10 ** (-stain.vector[c] * OD_MAX * (x / 255)) : RAMPS[signed][3 * x + c];
      image.data[4 * i + 3] = hidden ? 40 : 255;
    }
    context.putImageData(image, 0, 0);
  }

  unit(panel, map) {
    // what the numbers at the ends of a legend are
    if (panel.shows !== "map") return "optical density, base 10";
    if (this.attends(panel)) return `share of the attention per place; spread evenly: ${short(map.values.reduce((a, b) => a + b) / map.values.length)}`;
    if (!this.catalogue.methods[panel.method].signed) return "no unit: compare places, not patches";
    const what = this.what(panel);
    return what ? `purple speaks against ${what}, orange for it` : "purple below 0, orange above";
  }

  what(panel) {
    // the explained score in words, "" for methods that know none
    const wish = this.explained(panel), { scores, targets } = this.catalogue;
    return wish === "-" ? "" : targets[scores[wish] ?? wish];
  }

  setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  titled(panel, view = {}) {
    if (panel.shows !== "map" || !this.networks[panel.network]) return this.catalogue.shows[panel.shows];
    const { name } = this.networks[panel.network], method = this.catalogue.methods[panel.method];
    if (!this.attends(panel)) {
      const what = this.what(panel), predicted = this.get("score") === "predicted" ? ", predicted" : "";
      return `${name} · ${method.label}${what && ` for ${what}${predicted}`}`;
    }
    const token = this.token(panel), head = !panel.head || (token && this.catalogue.page) ? "mean of heads" : `head ${panel.head}`;
    const from = token ? `from token row ${token[0] + 1}, column ${token[1] + 1}${this.reach(panel, view)}` : "from CLS";
    return `${name} · attention, layer ${panel.layer}, ${head}, ${from}`;
  }

  reach(panel, view) {
    if (!view.map || !view.token || !view.picture) return "";
    return `, mean distance ${this.length(distance(view.map, ...view.token, view.picture.side_px))}`;
  }

  length(px) {
    const { mpp } = this.patch();
    return `${px.toFixed(0)} px${mpp ? ` (${(px * mpp).toFixed(0)} µm)` : ""}`;
  }

  read(k, at) {
    // the values under the pointer, in words
    const view = this.panels[k], panel = this.get("panels")[k];
    this.pointer = [k, at];
    if (!view?.picture || at.x < 0 || at.y < 0 || at.x >= 1 || at.y >= 1) return;
    const { width, side_px } = view.picture, [x, y] = [Math.floor(at.x * width), Math.floor(at.y * width)];
    const words = [`x ${Math.floor(at.x * side_px)}, y ${Math.floor(at.y * side_px)} px`];
    if (panel.shows === "map" && view.map) {
      const [row, column] = [Math.floor(at.y * view.map.h), Math.floor(at.x * view.map.w)], value = view.map.values[row * view.map.w + column];
      words.push(`value ${short(value)} (${percent(value / largest(view.map))} of the largest)`, `row ${row + 1}, column ${column + 1} of ${view.map.h} x ${view.map.w}`);
      if (view.token) words.push(`${this.length(Math.hypot((row - view.token[0]) / view.map.h, (column - view.token[1]) / view.map.w) * side_px)} from the token`);
    } else if (this.catalogue.stains[panel.shows]) words.push(`optical density ${view.picture.density(panel.shows, x, y).toFixed(2)}`);
    else words.push(`red, green, blue ${[...view.picture.pixels().slice(4 * (y * width + x), 4 * (y * width + x) + 3)].join(", ")}`);
    this.setText(this.values, words.join(" · "));
  }

  rest() {
    this.pointer = null, this.setText(this.values, REST);
  }

  // ----- beside the panels: probabilities, and layer x head

  drawSide() {
    const patch = this.patch(), network = this.networks[this.get("network")], p = this.probabilities(patch);
    const raters = Object.entries(patch.raters).filter(([, score]) => score >= 0);
    const rows = this.catalogue.scores.map((score, k) => {
      const who = [...(patch.truth === k ? ["true"] : []), ...raters.filter(([, given]) => given === k).map(([rater]) => rater)];
      const bar = make("span", { className: "fill" });
      bar.style.width = `${100 * (p ? p[k] : 0)}%`, bar.style.background = this.catalogue.colours[k];
      return make("div", { className: "line" }, make("b", {}, score), make("span", { className: "rail" }, bar),
        make("span", { className: "share" }, p ? percent(p[k]) : "–"), ...who.map((name) => make("span", { className: name === "true" ? "tag true" : "tag", title: name === "true" ? "true score" : `rater ${name}` }, name)));
    });
    const agree = raters.length > 1 && `raters ${new Set(raters.map(([, score]) => score)).size > 1 ? "disagree" : "agree"}`;
    const facts = [network ? `${network.name}${p ? ` predicts ${this.score(this.predicted(patch))}` : ""}` : "No network has finished", patch.set && `${patch.set} set`, agree,
      patch.doubt !== null && `label doubt ${percent(patch.doubt)}`, patch.truth < 0 && "true score unknown"];
    this.bars.replaceChildren(make("h3", {}, patch.name), make("p", { className: "facts" }, facts.filter(Boolean).join(" · ")), ...rows);
    this.gridBox.hidden = !network?.layers;
    this.drawGrid();
  }

  async fillGrid(key) {
    if (this.gridKey === key) return;
    this.gridKey = key;
    try {
      const stack = await this.stack(key, "grid");
      if (this.gridKey === key) (this.gridStack = stack), this.drawGrid();
    } catch (error) {
      if (!(error instanceof Stale)) this.say(error.message);
      this.gridKey = null;
    }
  }

  cell(network) {
    return clamp(Math.floor(Math.min(284 / network.layers, 264 / network.heads)), 12, 30);
  }

  drawGrid() {
    const network = this.networks[this.get("network")], stack = this.gridStack;
    if (!network?.layers || !stack || this.gridKey !== `attention/${this.get("patch")}/${network.run}` || stack.shape[0] !== network.layers * network.heads) return;
    const cell = this.cell(network), context = this.grid.getContext("2d"), [layer, head] = [this.get("layer"), this.get("head")];
    this.grid.width = network.layers * cell, this.grid.height = network.heads * cell;
    context.drawImage(this.cells(stack, network, cell), 0, 0);
    context.lineWidth = 3, context.strokeStyle = "#c2185b";
    context.strokeRect((layer - 1) * cell + 0.5, (head ? (head - 1) * cell : 0) + 0.5, cell - 3, (head ? 1 : network.heads) * cell - 3);
    this.setText(this.gridHead, `Attention from CLS: layers 1 to ${network.layers} →, heads 1 to ${network.heads} ↓`);
    this.setText(this.gridNote, this.get("stretch") ? "Each cell from its own smallest to its own largest value: faint differences look strong."
      : "Each cell from 0 to its own largest value: yellow all over is even attention.");
    this.grid.setAttribute("aria-label", `Layer ${layer} of ${network.layers}, ${head ? `head ${head} of ${network.heads}` : "mean of heads"}; arrow keys choose`);
  }

  cells(stack, network, cell) {
    // every layer and head as a small picture, coloured once per patch: the frame moves over it
    const mark = `${this.gridKey} ${this.get("stretch")} ${cell}`;
    if (this.celled === mark) return this.cellsDrawn;
    const canvas = blank(network.layers * cell, network.heads * cell), context = canvas.getContext("2d"), one = blank(1, 1);
    context.imageSmoothingEnabled = false;
    for (let k = 0; k < stack.shape[0]; k++) {
      const map = slice(stack, k), [x, y] = [Math.floor(k / network.heads) * cell, (k % network.heads) * cell];
      context.drawImage(coloured(map, range(map, false, this.get("stretch")), false, 0, one), x, y, cell - 2, cell - 2);
    }
    this.celled = mark;
    return (this.cellsDrawn = canvas);
  }

  pickCell(event) {
    const network = this.networks[this.get("network")], box = this.grid.getBoundingClientRect();
    const layer = Math.floor(((event.clientX - box.left) / box.width) * network.layers), head = Math.floor(((event.clientY - box.top) / box.height) * network.heads);
    this.set({ method: "attention", layer: clamp(layer + 1, 1, network.layers), head: clamp(head + 1, 1, network.heads) });
  }

  stepCell(event) {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!step) return;
    this.step(...step);
    event.preventDefault(), event.stopPropagation();
  }

  step(layers, heads) {
    const network = this.networks[this.get("network")];
    if (!network?.layers) return;
    this.set({ method: "attention", layer: clamp(this.get("layer") + layers, 1, network.layers), head: clamp(this.get("head") + heads, 0, network.heads) });
  }

  // ----- keys

  key(event) {
    if (event.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const slider = event.target.type === "range" || event.target.type === "radio", arrow = event.key.startsWith("Arrow");
    if (slider && arrow) return;
    const pan = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    const nudge = { i: [0, -1], k: [0, 1], j: [-1, 0], l: [1, 0] }[event.key];
    const acts = {
      ArrowLeft: () => this.go(-1), ArrowRight: () => this.go(1), Home: () => this.go(-1e9), End: () => this.go(1e9),
      PageUp: () => this.go(-8), PageDown: () => this.go(8), "+": () => this.zoomTo(this.view.zoom * 1.4), "=": () => this.zoomTo(this.view.zoom * 1.4),
      "-": () => this.zoomTo(this.view.zoom / 1.4), 0: () => this.zoomTo(1), "[": () => this.step(-1, 0), "]": () => this.step(1, 0),
      ",": () => this.step(0, -1), ".": () => this.step(0, 1), t: () => this.set({ place: [0.5, 0.5] }), Escape: () => this.set({ place: [] }), p: () => this.screenshot(),
      "?": () => (this.keys.open = !this.keys.open),
    };
    if (event.shiftKey && pan) this.move(...pan);
    else if (nudge) this.nudge(...nudge);
    else if ("1234".includes(event.key) && this.panels[event.key - 1]) this.panels[event.key - 1].figure.focus();
    else if (acts[event.key]) acts[event.key]();
    else return;
    event.preventDefault(), event.stopPropagation();
  }

  nudge(right, down) {
    const network = this.networks[this.get("network")], [x = 0.5, y = 0.5] = this.get("place");
    if (!network?.layers) return;
    const [h, w] = network.grid;
    this.set({ place: [clamp(x + right / w, 0.5 / w, 1 - 0.5 / w), clamp(y + down / h, 0.5 / h, 1 - 0.5 / h)] });
  }

  // ----- screenshot

  caption() {
    const patch = this.patch(), lines = [`Patch ${patch.name} of study ${this.catalogue.study}; true score ${this.score(patch.truth)}.`];
    this.get("panels").forEach((panel, k) => {
      const network = panel.shows === "map" && this.networks[panel.network];
      const how = network ? ` (recipe ${network.recipe}, seed ${network.seed}, weights ${network.weights}, ${network.side_px} px; it predicts ${this.score(this.predicted(patch, panel.network))}${network.verdict && `; COLLAPSED: ${network.verdict}`}). ${this.attends(panel) ? "Attention knows no score" : this.catalogue.methods[panel.method].caption}` : "";
      lines.push(`Panel ${k + 1}: ${this.titled(panel, this.panels[k])}${how}.`);
    });
    const smooth = this.get("smooth") ? "bilinear to the patch's size" : "in blocks, as computed";
    const scale = this.get("stretch") ? "from its smallest to its largest value" : "divided by its largest absolute value";
    lines.push(`Scaling: each map ${scale} in this patch, signed maps symmetric, ${smooth}; opacity ${percent(this.get("opacity"))}, growing with the value; drawn from ${percent(this.get("threshold"))} of the largest value; zoom ${this.view.zoom.toFixed(1)}.`);
    return [...lines, RESEARCH];
  }

  wrapped(context, text, width) {
    const lines = [""];
    for (const letter of text.match(/\S{1,40}\s*/g) ?? []) {
      if (lines.at(-1) && context.measureText(lines.at(-1) + letter).width > width) lines.push("");
      lines[lines.length - 1] += letter;
    }
    return lines;
  }

  screenshot() {
    const side = 560, gap = 16, many = this.panels.length, out = blank(many * (side + gap) + gap, 10), context = out.getContext("2d");
    const font = "15px 'DejaVu Sans', sans-serif";
    context.font = font;
    const titles = this.panels.map((view) => this.wrapped(context, view.title.textContent, side));
    const text = this.caption().flatMap((line) => this.wrapped(context, line, out.width - 2 * gap));
    const head = Math.max(...titles.map((lines) => lines.length)) * 20 + gap, foot = head + side + 64;
    out.height = foot + 21 * text.length + gap;
    context.fillStyle = "#fff", context.fillRect(0, 0, out.width, out.height);
    context.font = font, context.fillStyle = "#222";
    this.panels.forEach((view, k) => {
      const x = gap + k * (side + gap);
      titles[k].forEach((line, row) => context.fillText(line, x, 20 + 20 * row));
      context.drawImage(this.paint(view, this.get("panels")[k], blank(side, side)), x, head);
      if (view.legend.style.visibility !== "visible") return;
      context.drawImage(view.bar, x + 90, head + side + 8, side - 180, 10);
      context.fillText(view.low.textContent, x, head + side + 19), context.fillText(view.high.textContent, x + side - 82, head + side + 19);
      context.fillText(view.unit.textContent, x, head + side + 40);
    });
    text.forEach((line, row) => context.fillText(line, gap, foot + 15 + 21 * row));
    out.toBlob((blob) => download(`${this.catalogue.study}_${this.patch().name.replace(/\.[^.]*$/, "")}.png`, blob), "image/png");
    this.say("Screenshot saved, with a caption that says what it shows.");
  }
}

// ---------- the page's own controls; in the notebook ipywidgets stand in their place

class Controls {
  constructor(explorer, state, catalogue) {
    Object.assign(this, { explorer, state, catalogue, fields: {} });
    const scores = ["any", ...catalogue.scores, "?"], options = (list) => list.map((item) => (Array.isArray(item) ? item : [item, item]));
    const filters = make("form", { className: "filters", ariaLabel: "Filters", onsubmit: (event) => event.preventDefault() },
      this.text("search", "File name"), this.select("truth", "True", options(scores)), this.select("predicted", "Predicted", options(scores)),
      this.select("verdict", "Verdict", options(["any", "right", "wrong"])), this.number("sure_from", "Sure from %"), this.number("sure_to", "to %"),
      this.check("disagree", "raters disagree"), this.check("doubt", "label in doubt"));
    const panel = make("section", { className: "controls", ariaLabel: "Selected panel" },
      make("div", { className: "heading" }, this.heading = make("h3"), explorer.button("−", () => this.panels(-1), "Fewer panels"), explorer.button("+", () => this.panels(1), "More panels")),
      this.select("shows", "Shows", Object.entries(catalogue.shows)), this.select("network", "Network", catalogue.networks.length ? catalogue.networks.map(({ run, name }) => [run, name]) : [["", "none has finished"]]),
      this.select("method", "Method", []), this.select("score", "Explains", Object.entries(catalogue.targets)),
      this.range("layer", "Layer", 1, 12, 1, String), this.range("head", "Head", 0, 12, 1, (v) => (v ? String(v) : "mean")),
      this.range("opacity", "Opacity", 0, 1, 0.01, percent), this.range("threshold", "Threshold", 0, 1, 0.01, percent),
      make("div", { className: "pair" }, this.check("smooth", "smooth"), this.check("stretch", "stretch")));
    filters.append(explorer.count);
    explorer.root.prepend(filters);
    explorer.side.prepend(panel);
    explorer.side.append(this.notes());
    state.on(() => this.later());
    this.show();
  }

  field(key, label, input, after = "") {
    this.fields[key] = input;
    return make("label", { className: `field ${key}` }, make("span", {}, label), input, after);
  }
  text(key, label) {
    return this.field(key, label, make("input", { type: "search", oninput: (event) => this.state.set({ [key]: event.target.value }) }));
  }
  number(key, label) {
    return this.field(key, label, make("input", { type: "number", min: 0, max: 100, oninput: (event) => this.state.set({ [key]: Number(event.target.value) }) }));
  }
  check(key, label) {
    return this.field(key, label, make("input", { type: "checkbox", onchange: (event) => this.state.set({ [key]: event.target.checked }) }));
  }
  select(key, label, options) {
    const choices = options.map(([value, text]) => make("option", { value }, text));
    return this.field(key, label, make("select", { onchange: (event) => this.state.set({ [key]: event.target.value }) }, ...choices));
  }
  range(key, label, min, max, step, written) {
    const input = make("input", { type: "range", min, max, step, oninput: (event) => this.state.set({ [key]: Number(event.target.value) }) });
    input.output = make("output");
    input.written = written;
    return this.field(key, label, input, input.output);
  }

  panels(step) {
    const panels = this.state.get("panels").map((panel) => ({ ...panel }));
    if (step > 0 && panels.length < 4) panels.push({ ...panels.at(-1) });
    if (step < 0 && panels.length > 2) panels.pop();
    this.state.set({ panels, selected: step > 0 ? panels.length - 1 : Math.min(this.state.get("selected"), panels.length - 1) });
  }

  later() {
    this.frame ??= requestAnimationFrame(() => ((this.frame = undefined), this.show()));
  }

  show() {
    const { fields, state, catalogue } = this, network = this.explorer.networks[state.get("network")];
    const list = network?.methods ?? [];
    if (fields.method.dataset.of !== list.join()) {
      fields.method.dataset.of = list.join();
      fields.method.replaceChildren(...list.map((value) => make("option", { value }, catalogue.methods[value].label)));
    }
    fields.layer.max = network?.layers || 1, fields.head.max = network?.heads || 0;
    const map = state.get("shows") === "map", attention = map && state.get("method") === "attention" && network?.layers > 0;
    fields.method.disabled = !map;
    const mean = attention && state.get("place").length > 0; // the page holds token attention as the mean of the heads
    fields.layer.disabled = !attention, fields.head.disabled = !attention || mean;
    fields.score.disabled = !map || !catalogue.methods[state.get("method")]?.scored;
    for (const [key, input] of Object.entries(fields)) {
      const value = state.get(key);
      if (input.type === "checkbox") input.checked = value;
      else if (String(input.value) !== String(value) && document.activeElement !== input) input.value = value;
      else if (input.type === "range") input.value = value;
      if (input.output) input.output.textContent = key === "head" && mean ? "mean" : input.written(value);
    }
    this.heading.textContent = `Panel ${state.get("selected") + 1} of ${state.get("panels").length}`;
    this.listNotes();
  }

  // ----- notes stay in this browser until they are downloaded; every note has a key of its own, so none overwrites another

  notes() {
    this.reader = make("input", { type: "text", autocomplete: "name", maxLength: 60 });
    this.proposed = make("select", {}, ...["", ...this.catalogue.scores].map((value) => make("option", { value }, value || "none")));
    this.words = make("textarea", { rows: 2, maxLength: 2000 });
    this.told = make("p", { className: "told", role: "status" });
    this.list = make("ul", { className: "list" });
    const label = (text, input) => make("label", { className: "field" }, make("span", {}, text), input);
    return make("section", { className: "notes", ariaLabel: "Notes" }, make("h3", {}, "Note on this patch"), label("Reader", this.reader),
      label("Proposed", this.proposed), label("Note", this.words), make("div", { className: "pair" }, this.explorer.button("Save note", () => this.save()),
      this.explorer.button("Download notes", () => this.send(), "CSV for the study's folder notes/")), this.told, this.list);
  }

  prefix() {
    return `her2-note:${this.catalogue.study}:`;
  }

  kept() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix())).sort();
    return keys.map((key) => JSON.parse(localStorage.getItem(key)));
  }

  save() {
    const reader = this.reader.value.trim(), now = new Date().toISOString(), time = now.replace(/\.\d+Z/, "+00:00");
    const row = { time, reader, patch: this.explorer.patch().name, score: this.proposed.value, note: this.words.value.replace(/\s+/g, " ").trim() };
    if (!reader) return this.tell("Give your name as reader first: every note carries it.");
    if (!row.score && !row.note) return this.tell("Write a note or propose a score first.");
    try {
      localStorage.setItem(`${this.prefix()}${now}:${Math.random()}`, JSON.stringify(row));
    } catch (error) {
      return this.tell(`This browser keeps nothing (${error.name}): use the notebook 90_explorer, which writes to disk.`);
    }
    this.words.value = "", this.proposed.value = "";
    this.tell(`Kept in this browser for ${reader}: ${row.patch}. Download before you clear it.`);
    this.listNotes();
  }

  tell(text) {
    this.told.textContent = text;
  }

  listNotes() {
    if (!this.list) return;
    const name = this.explorer.patch().name, mine = this.kept().filter((row) => row.patch === name);
    const texts = mine.map((row) => `${row.reader}: ${row.score || "no score"}${row.note ? `, ${row.note}` : ""}`);
    if (this.listed === texts.join("\n")) return;
    this.listed = texts.join("\n");
    this.list.replaceChildren(...texts.map((text) => make("li", {}, text)));
  }

  send() {
    const columns = ["time", "reader", "patch", "score", "note"], rows = this.kept();
    if (!rows.length) return this.tell("There is no note to download yet.");
    const quoted = (value) => `"${String(value).replace(/"/g, '""')}"`;
    const text = [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((row) => row.map(quoted).join(",")).join("\n");
    download(`notes_${this.catalogue.study}.csv`, new Blob([`${text}\n`], { type: "text/csv" }));
    this.tell(`${rows.length} notes downloaded: put the file into the study's folder notes/.`);
  }
}

// ---------- two ways in: a page that holds its answers, a widget that asks a kernel

function startPage(root) {
  const held = JSON.parse(document.getElementById("her2-data").textContent);
  const state = new PageState(held.state), source = new PageSource(held.records, held.sidecars);
  const explorer = new Explorer(root, state, source, held.catalogue);
  const controls = new Controls(explorer, state, held.catalogue);
  root.prepend(make("header", {}, make("h1", {}, `HER2 explorer: study “${held.catalogue.study}”`), make("p", {}, RESEARCH)));
  Object.assign(root, { explorer, controls });
}

function render({ model, el }) {
  const root = make("div"), catalogue = structuredClone(model.get("catalogue"));
  const explorer = new Explorer(root, new ModelState(model, Object.keys(catalogue.state)), new KernelSource(model), catalogue);
  root.explorer = explorer;
  el.append(root);
  return () => explorer.close();
}

if (document.getElementById(PAGE)) startPage(document.getElementById(PAGE));

export default { render };
