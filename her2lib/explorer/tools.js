// The explorer: any patch through any network, by hand. These files, joined by assets.py, draw the
// Jupyter widget and the page that needs no kernel. Both ask a source for answers by key
// ("map/3/<run>/grad_cam/2"): the widget's source is the kernel, the page's are the same answers
// written down. File names are strangers' words: they become text nodes, never markup.

const RESEARCH = "Research use only: a patch-level score is not an ASCO/CAP score.";

// ---------- elements

function make(tag, properties = {}, ...children) {
  // An element; properties named on… are listeners, strings among the children become text nodes.
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function makeButton(text, onclick, title = "") {
  const button = make("button", { type: "button", title, onclick }, text);
  // A sign alone says nothing to a screen reader.
  if (text.length < 2) button.ariaLabel = title;
  return button;
}

function makeCanvas(width, height) {
  return make("canvas", { width, height });
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob) });
  link.download = name.replace(/[^\w.+-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---------- numbers and text

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function percent(value) {
  return `${Math.round(100 * value)} %`;
}

function shortNumber(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const plain = size < 1000 && size >= 0.001;
  const text = plain ? value.toPrecision(3) : value.toExponential(1);
  return text.replaceAll("-", "−");
}

function wrapText(context, text, width) {
  // Lines of a text that fit a width in the context's font; a long word is cut after 40 letters.
  const lines = [""];
  for (const word of text.match(/\S{1,40}\s*/g) ?? []) {
    const longer = lines.at(-1) + word;
    if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

// ---------- what was asked for lately

class Recent {
  // The values asked for last, up to a total weight: 500 patches cost no more memory than 20.
  constructor(limit, weigh = () => 1, drop = () => {}) {
    this.limit = limit;
    this.weigh = weigh;
    this.drop = drop;
    this.values = new Map();
    this.weight = 0;
  }

  has(key) {
    return this.values.has(key);
  }

  get(key) {
    const value = this.values.get(key);
    if (value !== undefined) {
      // Asked for again, it goes to the end of the line.
      this.values.delete(key);
      this.values.set(key, value);
    }
    return value;
  }

  set(key, value) {
    this.values.set(key, value);
    this.weight += this.weigh(value);
    while (this.weight > this.limit && this.values.size > 1) {
      const [oldest, dropped] = this.values.entries().next().value;
      this.values.delete(oldest);
      this.weight -= this.weigh(dropped);
      this.drop(dropped);
    }
    return value;
  }

  clear() {
    this.values.forEach((value) => this.drop(value));
    this.values.clear();
    this.weight = 0;
  }
}
