// ---------- one panel: a patch, or a map over it, with its title and legend

const SMOOTH_PX = 256; // maps are interpolated to this many px before they are coloured
const SLOW_MS = 300; // a map that takes longer says that it is being computed
const WAITING = "Waiting for an answer. A notebook answers when its running cells are done.";

class PanelView {
  constructor(explorer, number) {
    this.explorer = explorer;
    this.number = number;
    this.overlay = makeCanvas(1, 1); // the map in colour
    this.title = make("figcaption");
    this.canvas = make("canvas", { className: "view" });
    this.low = make("span");
    this.bar = make("canvas", { className: "bar", width: 256, height: 10 });
    this.high = make("span");
    this.legend = make("div", { className: "legend" }, this.low, this.bar, this.high);
    this.unit = make("p", { className: "unit" });
    this.figure = make("figure", { className: "panel", tabIndex: 0, role: "group" },
      this.title, this.canvas, this.legend, this.unit);
    this.figure.addEventListener("focus", () => explorer.set({ selected: number }));
  }

  draw(panel) {
    // The canvas has as many px as the screen shows of it.
    const side = Math.max(80, Math.round(this.figure.clientWidth));
    const sharp = Math.round(side * (window.devicePixelRatio || 1));
    if (this.canvas.width !== sharp) {
      this.canvas.width = sharp;
      this.canvas.height = sharp;
    }
    this.paint(panel, this.canvas);
    this.drawLegend(panel);
    setText(this.title, this.explorer.captions.title(panel, this));
    const label = `Panel ${this.number + 1}: ${this.title.textContent}`;
    this.figure.setAttribute("aria-label", label);
  }

  // ----- the picture and the map

  paint(panel, canvas) {
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const sharp = canvas.width;
    const { side } = this.explorer.zoom.window();
    const isMap = panel.shows === "map";
    context.fillStyle = "#e8e8ea";
    context.fillRect(0, 0, sharp, sharp);
    if (this.picture) {
      context.imageSmoothingEnabled = side * this.picture.width > sharp / 6;
      this.place(context, this.picture.drawn(isMap ? "grey" : panel.shows), sharp);
    }
    if (this.map && isMap) this.paintMap(context, panel, sharp);
    const missing = this.missing(isMap);
    if (missing) this.write(context, missing, sharp);
    return canvas;
  }

  place(context, image, sharp) {
    // Draws what the window shows of an image over the whole canvas.
    const { left, top, side } = this.explorer.zoom.window();
    const { width, height } = image;
    context.drawImage(image,
      left * width, top * height, side * width, side * height, 0, 0, sharp, sharp);
  }

  paintMap(context, panel, sharp) {
    this.colour(panel);
    context.globalAlpha = this.explorer.get("opacity");
    context.imageSmoothingEnabled = this.explorer.get("smooth");
    this.place(context, this.overlay, sharp);
    context.globalAlpha = 1;
    if (this.token) this.drawToken(context, sharp);
  }

  colour(panel) {
    // The overlay, coloured again only when the map or what its colours depend on has changed.
    const { signed } = this.explorer.catalogue.methods[panel.method];
    const smooth = this.explorer.get("smooth");
    const threshold = this.explorer.get("threshold");
    const stretch = this.explorer.get("stretch");
    const colouring = `${smooth} ${threshold} ${signed} ${stretch}`;
    if (this.colouring === colouring) return;
    this.colouring = colouring;
    this.range = colourRange(this.map, signed, stretch);
    let map = this.map;
    if (smooth && map.h < SMOOTH_PX) {
      map.smooth ??= bilinear(map, SMOOTH_PX);
      map = map.smooth;
    }
    colourMap(map, this.range, signed, threshold, this.overlay);
  }

  drawToken(context, sharp) {
    const { left, top, side } = this.explorer.zoom.window();
    const [row, column] = this.token;
    const width = sharp / this.map.w / side;
    const height = sharp / this.map.h / side;
    const x = ((column / this.map.w - left) / side) * sharp;
    const y = ((row / this.map.h - top) / side) * sharp;
    // White on black is seen on every map.
    for (const [lineWidth, strokeStyle] of [[5, "#000"], [2.5, "#fff"]]) {
      Object.assign(context, { lineWidth, strokeStyle });
      context.strokeRect(x, y, width, height);
    }
  }

  missing(isMap) {
    // What to write over a panel that has not got all it shows, or "".
    if (this.error) return this.error;
    const complete = this.picture && (this.map || !isMap);
    if (complete || !(performance.now() - this.askedAt > SLOW_MS)) return "";
    return this.picture ? "Computing this map …" : WAITING;
  }

  write(context, text, sharp) {
    context.font = `${Math.round(sharp / 24)}px sans-serif`;
    const lines = wrapText(context, text, 0.9 * sharp);
    context.fillStyle = "#ffffffe8";
    context.fillRect(0, 0.38 * sharp, sharp, (0.06 * lines.length + 0.06) * sharp);
    context.fillStyle = "#222";
    lines.forEach((line, k) => context.fillText(line, 0.05 * sharp, (0.45 + 0.06 * k) * sharp));
  }

  // ----- the legend

  drawLegend(panel) {
    const stain = this.explorer.catalogue.stains[panel.shows];
    const isMap = panel.shows === "map";
    const visible = (this.map && isMap) || (stain && this.picture);
    this.legend.style.visibility = visible ? "visible" : "hidden";
    setText(this.unit, visible ? this.explorer.captions.unit(panel, this.map) : "");
    if (!visible) return;
    if (isMap) this.drawMapLegend(this.explorer.catalogue.methods[panel.method]);
    else this.drawStainLegend(panel.shows, stain);
  }

  drawMapLegend({ signed }) {
    const threshold = this.explorer.get("threshold");
    setText(this.low, shortNumber(this.range[0]));
    setText(this.high, `${signed ? "+" : ""}${shortNumber(this.range[1])}`);
    const ramp = rampOf(signed);
    this.drawBar(`${signed} ${threshold}`, (x) => {
      const size = signed ? Math.abs(x / 127.5 - 1) : x / 255;
      return [ramp[3 * x], ramp[3 * x + 1], ramp[3 * x + 2], size < threshold ? 40 : 255];
    });
  }

  drawStainLegend(name, { vector }) {
    setText(this.low, "OD 0");
    setText(this.high, `${OD_MAX}`);
    this.drawBar(name, (x) => {
      const light = vector.map((part) => 255 * 10 ** (-part * OD_MAX * (x / 255)));
      return [...light, 255];
    });
  }

  drawBar(key, colourOf) {
    // colourOf: x in 0..255 -> [red, green, blue, alpha]; drawn again only when the key changes.
    if (this.barKey === key) return;
    this.barKey = key;
    const { width, height } = this.bar;
    const context = this.bar.getContext("2d");
    const image = context.createImageData(width, height);
    for (let x = 0; x < width; x++) {
      const colour = colourOf(x);
      for (let y = 0; y < height; y++) image.data.set(colour, 4 * (y * width + x));
    }
    context.putImageData(image, 0, 0);
  }
}
