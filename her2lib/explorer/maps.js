// ---------- maps: quantised stacks, values, colours

const VIRIDIS = [
  "#440154", "#482878", "#3e4a89", "#31688e", "#26828e",
  "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
];
// PuOr without its darkest ends, which look like tissue.
const DIVERGING = [
  "#3f1a86", "#6a4bb0", "#b2abd2", "#f7f7f7", "#fdb863", "#f0861a", "#d95f02",
];
const RAMPS = { unsigned: makeRamp(VIRIDIS), signed: makeRamp(DIVERGING) };

// Opacity of the smallest value, as a fraction of the largest value's: tissue stays visible where a
// map is low.
const FAINTEST = 0.2;

function makeRamp(stops) {
  // (256,3) colours between the stops, as one Uint8Array.
  const channels = [1, 3, 5];
  const colours = stops.map((stop) => channels.map((at) => parseInt(stop.slice(at, at + 2), 16)));
  const table = new Uint8Array(3 * 256);
  for (let i = 0; i < 256; i++) {
    const position = (i / 255) * (colours.length - 1);
    const k = Math.min(Math.floor(position), colours.length - 2);
    for (let c = 0; c < 3; c++) {
      const step = colours[k + 1][c] - colours[k][c];
      table[3 * i + c] = Math.round(colours[k][c] + (position - k) * step);
    }
  }
  return table;
}

function rampOf(signed) {
  return signed ? RAMPS.signed : RAMPS.unsigned;
}

// ---------- reading

function mapAt(stack, k) {
  // {h, w, values}, map k of a stack in its own unit.
  const [, h, w] = stack.shape;
  const low = stack.low[k];
  const step = (stack.high[k] - low) / 255;
  const bytes = stack.bytes.subarray(k * h * w, (k + 1) * h * w);
  return { h, w, values: Float32Array.from(bytes, (level) => low + level * step) };
}

function meanMap(stack, from, count) {
  // The mean of count maps of a stack.
  const mean = mapAt(stack, from);
  for (let k = 1; k < count; k++) {
    mapAt(stack, from + k).values.forEach((value, i) => (mean.values[i] += value));
  }
  mean.values.forEach((value, i) => (mean.values[i] = value / count));
  return mean;
}

function largestValue(map) {
  // The largest absolute value, or 1 of a map that is 0 everywhere.
  let largest = 0;
  for (const value of map.values) largest = Math.max(largest, Math.abs(value));
  return largest || 1;
}

function attentionDistance(map, row, column, side_px) {
  // Mean distance from a token to where its attention goes, in px of the patch.
  const cellHeight = side_px / map.h;
  const cellWidth = side_px / map.w;
  let sum = 0;
  let weight = 0;
  map.values.forEach((value, i) => {
    const down = (Math.floor(i / map.w) - row) * cellHeight;
    const across = ((i % map.w) - column) * cellWidth;
    sum += value * Math.hypot(down, across);
    weight += value;
  });
  return weight ? sum / weight : 0;
}

// ---------- drawing

function bilinear(map, side) {
  // The map with side x side values; the centre of each of its cells stays where it is.
  const { h, w, values } = map;
  const out = new Float32Array(side * side);
  const columns = Array.from({ length: side }, (_, x) => neighbours(x, w, side));
  for (let y = 0; y < side; y++) {
    const [up, down, downPart] = neighbours(y, h, side);
    for (let x = 0; x < side; x++) {
      const [left, right, rightPart] = columns[x];
      const topLeft = values[up * w + left];
      const bottomLeft = values[down * w + left];
      const top = topLeft + rightPart * (values[up * w + right] - topLeft);
      const bottom = bottomLeft + rightPart * (values[down * w + right] - bottomLeft);
      out[y * side + x] = top + downPart * (bottom - top);
    }
  }
  return { h: side, w: side, values: out };
}

function neighbours(i, n, side) {
  // [index, next index, weight of the next] of pixel i of side, among n values.
  const position = clamp(((i + 0.5) * n) / side - 0.5, 0, n - 1);
  const k = Math.min(Math.floor(position), Math.max(n - 2, 0));
  return [k, Math.min(k + 1, n - 1), position - k];
}

function colourRange(map, signed, stretch) {
  // [low, high] of the colour scale: symmetric for signed maps, else from 0, or from the smallest
  // value when stretched.
  const largest = largestValue(map);
  if (signed) return [-largest, largest];
  if (!stretch) return [0, largest];
  return [map.values.reduce((low, value) => Math.min(low, value)), largest];
}

function colourMap(map, [low, high], signed, threshold, canvas = makeCanvas(map.w, map.h)) {
  // Canvas with a map in colour; opacity grows with the value, what lies below the threshold is
  // transparent.
  canvas.width = map.w;
  canvas.height = map.h;
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.w, map.h);
  const data = image.data;
  const ramp = rampOf(signed);
  for (let i = 0; i < map.values.length; i++) {
    const fraction = clamp((map.values[i] - low) / (high - low || 1), 0, 1);
    const size = signed ? Math.abs(2 * fraction - 1) : fraction;
    const at = 3 * Math.round(255 * fraction);
    data[4 * i] = ramp[at];
    data[4 * i + 1] = ramp[at + 1];
    data[4 * i + 2] = ramp[at + 2];
    data[4 * i + 3] = size >= threshold ? 255 * (FAINTEST + (1 - FAINTEST) * size) : 0;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
