// ---------- pictures: the patch, grey, and its stains

const OD_MAX = 1.5; // end of the stain panels' scale, optical density

class Picture {
  // A decoded patch, and what was drawn from it: grey, and each of its stains.
  constructor(canvas, header, stains) {
    this.canvas = canvas;
    this.width = canvas.width;
    this.side_px = header.side_px;
    this.stains = stains;
    this.drawings = {};
  }

  pixels() {
    if (!this.data) {
      const context = this.canvas.getContext("2d");
      this.data = context.getImageData(0, 0, this.width, this.width).data;
    }
    return this.data;
  }

  colourAt(x, y) {
    // [red, green, blue] of one pixel.
    const at = 4 * (y * this.width + x);
    return [...this.pixels().slice(at, at + 3)];
  }

  density(stain, x, y) {
    // Optical density of one stain in one pixel, base 10 (Ruifrok 2001), as her2lib.stain.unmix
    // without white balance.
    const { inverse } = this.stains[stain];
    const logs = this.colourAt(x, y).map((value) => Math.log10(255 / Math.max(1, value)));
    return logs.reduce((sum, log, c) => sum + log * inverse[c], 0);
  }

  drawn(kind) {
    // Canvas of the patch as it is, "grey", or one of its stains.
    if (kind !== "grey" && !this.stains[kind]) return this.canvas;
    this.drawings[kind] ??= this.recoloured(kind);
    return this.drawings[kind];
  }

  recoloured(kind) {
    const canvas = makeCanvas(this.width, this.width);
    const context = canvas.getContext("2d");
    const image = context.createImageData(this.width, this.width);
    if (kind === "grey") fillGrey(image.data, this.pixels());
    else fillStain(image.data, this.pixels(), this.stains[kind]);
    context.putImageData(image, 0, 0);
    return canvas;
  }
}

function fillGrey(data, pixels) {
  for (let i = 0; i < data.length; i += 4) {
    const grey = (pixels[i] + pixels[i + 1] + pixels[i + 2]) / 3;
    data[i] = grey;
    data[i + 1] = grey;
    data[i + 2] = grey;
    data[i + 3] = 255;
  }
}

function fillStain(data, pixels, stain) {
  // The stain alone, in its own colour: tables of 256 logarithms and of 256 colours, both ways.
  const [red, green, blue] = stain.inverse;
  const logs = Float32Array.from({ length: 256 }, (_, i) => Math.log10(255 / Math.max(1, i)));
  const light = stain.vector.map((part) =>
    Uint8Array.from({ length: 256 }, (_, i) => 255 * 10 ** (-part * 2 * OD_MAX * (i / 255))));
  for (let i = 0; i < data.length; i += 4) {
    const od = logs[pixels[i]] * red + logs[pixels[i + 1]] * green + logs[pixels[i + 2]] * blue;
    const level = clamp(Math.round((255 * od) / (2 * OD_MAX)), 0, 255);
    for (let c = 0; c < 3; c++) data[i + c] = light[c][level];
    data[i + 3] = 255;
  }
}
