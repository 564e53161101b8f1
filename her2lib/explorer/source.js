// ---------- state: the widget model's traits in the notebook, and the same interface in the page

class PageState {
  // get, set, on, off and save_changes as anywidget's model has them.
  constructor(values) {
    this.values = { ...values };
    this.listeners = new Map();
  }

  get(key) {
    return this.values[key];
  }

  set(key, value) {
    if (JSON.stringify(this.values[key]) === JSON.stringify(value)) return;
    this.values[key] = value;
    const listeners = this.listeners.get(`change:${key}`) ?? [];
    [...listeners].forEach((listener) => listener());
  }

  on(event, listener) {
    const listeners = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, listeners.add(listener));
  }

  off(event, listener) {
    this.listeners.get(event)?.delete(listener);
  }

  save_changes() {} // there is no kernel to tell
}

// ---------- sources of answers {…header, bytes}

const SIDECARS = 8; // files beside the page that are kept
const ASKED_AT_ONCE = 2; // so that a later wish overtakes all but two

class StaleRequest extends Error {}

class PageSource {
  constructor(records, sidecars) {
    this.records = records;
    this.sidecars = sidecars;
    this.loading = {};
    this.loaded = new Recent(SIDECARS);
    globalThis.her2Sidecar = (records) => (this.arrived = records);
  }

  async ask(key) {
    const patch = key.split("/")[1];
    const record = this.records[key] ?? (await this.sidecar(patch))?.[key];
    if (!record) {
      throw new Error("This page does not hold that map; the notebook 90_explorer computes it.");
    }
    const [header, text] = record;
    return { ...header, bytes: Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)) };
  }

  sidecar(patch) {
    // Records of a patch that lie beside the page, or undefined where all are inside.
    const src = this.sidecars[patch];
    if (!src) return undefined;
    const records = this.loaded.get(src);
    if (records) return records;
    this.loading[src] ??= this.loadSidecar(src);
    return this.loading[src];
  }

  loadSidecar(src) {
    // A script tag: a page opened from a folder may not fetch its neighbours.
    return new Promise((resolve, reject) => {
      const script = make("script", { src });
      const finish = () => {
        script.remove();
        delete this.loading[src];
      };
      script.addEventListener("load", () => {
        finish();
        resolve(this.loaded.set(src, this.arrived));
      });
      script.addEventListener("error", () => {
        finish();
        reject(new Error(`${src} is missing: copy that folder together with this page.`));
      });
      document.head.append(script);
    });
  }
}

class KernelSource {
  constructor(model) {
    this.model = model;
    this.asked = new Map(); // id -> request that the kernel has
    this.waiting = new Map(); // slot -> request that it shall have
    this.count = 0;
    this.onStatus = () => {};
    this.listener = (message, buffers) => this.receive(message, buffers);
    model.on("msg:custom", this.listener);
  }

  close() {
    this.model.off("msg:custom", this.listener);
  }

  ask(key, slot = key) {
    // Per slot only the last wish counts: who holds an arrow key down waits for one patch, not for
    // all that went by.
    return new Promise((resolve, reject) => {
      this.waiting.get(slot)?.reject(new StaleRequest());
      this.waiting.delete(slot);
      this.waiting.set(slot, { key, resolve, reject });
      this.askNext();
    });
  }

  askNext() {
    // Pictures and maps before thumbnails; of thumbnails the last, which is in sight.
    while (this.asked.size < ASKED_AT_ONCE && this.waiting.size) {
      const waiting = [...this.waiting];
      const urgent = waiting.find(([slot]) => !slot.startsWith("thumb/"));
      const [slot, request] = urgent ?? waiting.at(-1);
      this.waiting.delete(slot);
      this.send({ ask: request.key }, request);
    }
  }

  async addFile(file) {
    const bytes = await file.arrayBuffer();
    return new Promise((resolve, reject) => {
      this.send({ take: file.name }, { resolve, reject }, [bytes]);
    });
  }

  addNote(note) {
    // What the kernel says once the note is on its disk.
    return new Promise((resolve, reject) => {
      this.send({ note }, { resolve: ({ sentence }) => resolve(sentence), reject });
    });
  }

  send(content, request, buffers) {
    this.count += 1;
    this.asked.set(this.count, request);
    this.model.send({ ...content, id: this.count }, undefined, buffers);
  }

  receive({ id, header, error, status }, buffers) {
    if (status) this.onStatus(status);
    const request = this.asked.get(id);
    if (!request) return; // another view of the same widget asked
    this.asked.delete(id);
    if (error) request.reject(new Error(error));
    else request.resolve({ ...header, bytes: bytesOf(buffers) });
    this.askNext();
  }
}

function bytesOf(buffers) {
  if (!buffers?.length) return null;
  const { buffer, byteOffset, byteLength } = buffers[0];
  return new Uint8Array(buffer, byteOffset, byteLength);
}
