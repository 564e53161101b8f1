// ---------- zoom, shared by all panels, and the pointer on one of them

const MOST_ZOOM = 16;
const STILL_PX = 5; // a pointer that moved less has clicked

class Zoom {
  constructor(explorer) {
    this.explorer = explorer;
    this.x = 0.5; // centre of what is in sight, in 0..1 of the patch
    this.y = 0.5;
    this.factor = 1;
  }

  window() {
    // {left, top, side} of what is in sight, in 0..1 of the patch.
    const side = 1 / this.factor;
    const left = clamp(this.x - side / 2, 0, 1 - side);
    const top = clamp(this.y - side / 2, 0, 1 - side);
    return { side, left, top };
  }

  move(right, down) {
    // Moves by fractions of what is in sight.
    const { left, top, side } = this.window();
    this.x = left + side / 2 + right * side;
    this.y = top + side / 2 + down * side;
    this.explorer.later("draw");
  }

  to(factor, point) {
    // Zooms; a point given stays where it is under the pointer.
    const { left, top, side } = this.window();
    const after = clamp(factor, 1, MOST_ZOOM);
    if (point) {
      const half = 1 / after / 2;
      this.x = point.x - ((point.x - left) / side) * 2 * half + half;
      this.y = point.y - ((point.y - top) / side) * 2 * half + half;
    } else {
      this.x = left + side / 2;
      this.y = top + side / 2;
    }
    this.factor = after;
    this.explorer.later("draw");
  }

  by(factor, point) {
    this.to(this.factor * factor, point);
  }
}

class PanelPointer {
  // Mouse, pen and fingers on one panel: rest to read, drag to move, pinch to zoom, click to pick.
  constructor(explorer, view) {
    this.explorer = explorer;
    this.view = view;
    this.touches = new Map(); // pointer id -> its last event
    this.moved = 0;
    this.listen("pointerdown", (event) => this.press(event));
    this.listen("pointermove", (event) => this.shift(event));
    this.listen("pointerup", (event) => this.release(event));
    this.listen("pointercancel", (event) => this.touches.delete(event.pointerId));
    this.listen("pointerleave", () => explorer.readings.rest());
    this.listen("wheel", (event) => this.wheel(event), { passive: false });
  }

  listen(name, listener, options) {
    this.view.canvas.addEventListener(name, listener, options);
  }

  point(event) {
    // {x, y} in 0..1 of the patch under the pointer.
    const box = this.view.canvas.getBoundingClientRect();
    const { left, top, side } = this.explorer.zoom.window();
    const x = left + side * ((event.clientX - box.left) / box.width);
    const y = top + side * ((event.clientY - box.top) / box.height);
    return { x, y };
  }

  press(event) {
    this.touches.set(event.pointerId, event);
    this.moved = 0;
    this.view.canvas.setPointerCapture(event.pointerId);
    this.explorer.set({ selected: this.view.number });
  }

  shift(event) {
    if (this.touches.has(event.pointerId)) this.drag(event);
    else this.explorer.readings.read(this.view.number, this.point(event));
  }

  drag(event) {
    const before = this.touches.get(event.pointerId);
    const others = [...this.touches.values()].filter((touch) => touch !== before);
    const right = event.clientX - before.clientX;
    const down = event.clientY - before.clientY;
    this.moved += Math.hypot(right, down);
    this.touches.set(event.pointerId, event);
    if (others.length) {
      this.explorer.zoom.by(apart(event, others[0]) / apart(before, others[0]));
      return;
    }
    const { width } = this.view.canvas.getBoundingClientRect();
    this.explorer.zoom.move(-right / width, -down / width);
  }

  release(event) {
    const clicked = this.touches.size === 1 && this.moved < STILL_PX;
    if (clicked) this.explorer.panels.pickToken(this.point(event), this.view.number);
    this.touches.delete(event.pointerId);
  }

  wheel(event) {
    // A panel without focus lets the page scroll by.
    if (!this.view.figure.contains(document.activeElement)) return;
    event.preventDefault();
    this.explorer.zoom.by(event.deltaY < 0 ? 1.2 : 1 / 1.2, this.point(event));
  }
}

function apart(one, other) {
  return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
}

// ---------- the values under the pointer, in words

const REST = "Rest the pointer on a panel to read values.";

class Readings {
  constructor(explorer) {
    this.explorer = explorer;
    this.node = make("p", { className: "values" }, REST);
    this.last = null; // {number, point} of the pointer, read again when a panel changes
  }

  rest() {
    this.last = null;
    setText(this.node, REST);
  }

  again() {
    if (this.last) this.read(this.last.number, this.last.point);
  }

  read(number, point) {
    this.last = { number, point };
    const view = this.explorer.panels.views[number];
    const panel = this.explorer.get("panels")[number];
    const inside = point.x >= 0 && point.y >= 0 && point.x < 1 && point.y < 1;
    if (!view?.picture || !inside) return;
    const { side_px } = view.picture;
    const where = `x ${Math.floor(point.x * side_px)}, y ${Math.floor(point.y * side_px)} px`;
    setText(this.node, [where, ...this.values(view, panel, point)].join(" · "));
  }

  values(view, panel, point) {
    if (panel.shows === "map" && view.map) return this.mapValues(view, point);
    const x = Math.floor(point.x * view.picture.width);
    const y = Math.floor(point.y * view.picture.width);
    if (this.explorer.catalogue.stains[panel.shows]) {
      return [`optical density ${view.picture.density(panel.shows, x, y).toFixed(2)}`];
    }
    return [`red, green, blue ${view.picture.colourAt(x, y).join(", ")}`];
  }

  mapValues({ map, token, picture }, point) {
    const row = Math.floor(point.y * map.h);
    const column = Math.floor(point.x * map.w);
    const value = map.values[row * map.w + column];
    const values = [
      `value ${shortNumber(value)} (${percent(value / largestValue(map))} of the largest)`,
      `row ${row + 1}, column ${column + 1} of ${map.h} x ${map.w}`,
    ];
    if (token) {
      const down = (row - token[0]) / map.h;
      const across = (column - token[1]) / map.w;
      const px = Math.hypot(down, across) * picture.side_px;
      values.push(`${this.explorer.captions.length(px)} from the token`);
    }
    return values;
  }
}
