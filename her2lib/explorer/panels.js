// ---------- the panels side by side: what each needs, and fetching it

// What is kept of pictures and maps: two pictures of 1024 px or eleven small ones, 5 MB of maps.
const PICTURE_PX = 2.2e6;
const LEAST_PX = 2e5;
const STACK_BYTES = 5e6;

class Panels {
  constructor(explorer) {
    this.explorer = explorer;
    this.views = [];
    this.node = make("div", { className: "panels" });
    this.pictures = new Recent(PICTURE_PX, ({ width }) => Math.max(width * width, LEAST_PX));
    this.stacks = new Recent(STACK_BYTES, ({ bytes }) => bytes.length);
  }

  settings() {
    return this.explorer.get("panels");
  }

  arrange() {
    const settings = this.settings();
    while (this.views.length > settings.length) this.views.pop().figure.remove();
    while (this.views.length < settings.length) this.add();
    this.node.style.setProperty("--panels", settings.length);
    const selected = this.explorer.get("selected");
    this.views.forEach((view, k) => view.figure.classList.toggle("selected", k === selected));
  }

  add() {
    const view = new PanelView(this.explorer, this.views.length);
    view.pointer = new PanelPointer(this.explorer, view);
    this.views.push(view);
    this.node.append(view.figure);
  }

  draw() {
    this.settings().forEach((panel, k) => this.views[k]?.draw(panel));
    if (this.tokenMoved) this.sayToken();
  }

  // ----- what a panel's settings mean

  attends(panel) {
    const { layers } = this.explorer.networks[panel.network] ?? {};
    return panel.shows === "map" && panel.method === "attention" && layers > 0;
  }

  token(panel) {
    // [row, column] of the token that a panel's attention starts from, or null for the token the
    // score is read from.
    const [h, w] = this.explorer.networks[panel.network].grid;
    const [x, y] = this.explorer.get("token");
    if (x === undefined) return null;
    return [Math.min(Math.floor(y * h), h - 1), Math.min(Math.floor(x * w), w - 1)];
  }

  target(panel) {
    // What a map explains: "0" to "3", "expected" or a cut; "-" for methods that know no score.
    const { explorer } = this;
    const target = explorer.get("target");
    if (!explorer.catalogue.methods[panel.method].scored) return "-";
    if (target === "predicted") {
      return String(Math.max(0, explorer.predicted(explorer.patch(), panel.network)));
    }
    const score = explorer.catalogue.scores.indexOf(target);
    return score < 0 ? target : String(score);
  }

  request(panel) {
    // Keys of what a panel needs: its picture and, for a map, a stack and how to read it.
    const i = this.explorer.get("patch");
    const { he } = this.explorer.patch();
    if (panel.shows === "he") {
      if (!he) return { picture: null, why: "This patch has no HE partner." };
      return { picture: `picture/${i}/he` };
    }
    const picture = `picture/${i}/ihc`;
    if (panel.shows !== "map") return { picture };
    const network = this.explorer.networks[panel.network];
    if (!network) return { picture: null, why: this.explorer.unfinished() };
    if (this.attends(panel)) return { picture, ...this.attentionRequest(panel, i, network) };
    const stack = `map/${i}/${panel.network}/${panel.method}/${this.target(panel)}`;
    return { picture, stack, read: (maps) => mapAt(maps, 0) };
  }

  attentionRequest(panel, i, { heads, grid }) {
    const token = this.token(panel);
    if (token) {
      // The page holds token attention as the mean of the heads.
      const everyHead = !panel.head || this.explorer.catalogue.page;
      const head = everyHead ? "mean" : panel.head - 1;
      const stack = `tokens/${i}/${panel.network}/${panel.layer - 1}/${head}`;
      return { token, head, stack, read: (maps) => mapAt(maps, token[0] * grid[1] + token[1]) };
    }
    const first = (panel.layer - 1) * heads;
    const stack = `attention/${i}/${panel.network}`;
    if (panel.head) return { stack, read: (maps) => mapAt(maps, first + panel.head - 1) };
    return { stack, read: (maps) => meanMap(maps, first, heads) };
  }

  // ----- fetching

  load() {
    this.settings().forEach((panel, k) => this.views[k] && this.fill(this.views[k], panel));
  }

  async fill(view, panel) {
    const request = this.request(panel);
    // Layers and heads share a stack: the panel's settings tell them apart.
    const key = JSON.stringify([request, panel, this.explorer.get("patch")]);
    if (view.key === key) return;
    view.key = key;
    view.askedAt = performance.now();
    setTimeout(() => {
      if (view.key === key && !view.map) this.explorer.later("draw");
    }, SLOW_MS + 20);

    const picture = this.pictures.get(request.picture);
    const stack = this.stacks.get(request.stack);
    if (picture && stack) {
      // Both are here already, as for every layer and head of a patch: drawn in this frame, not in
      // the one after the promises.
      view.picture = picture;
      this.show(view, request, stack);
      return;
    }
    try {
      await this.fetchInto(view, request, () => view.key === key);
    } catch (error) {
      if (view.key !== key || error instanceof StaleRequest) return;
      view.map = null;
      view.error = error.message;
      this.explorer.later("draw");
    }
  }

  async fetchInto(view, request, isCurrent) {
    // The picture first, and the map over it as soon as it is there.
    const { number } = view;
    let picture = null;
    if (request.picture) picture = await this.picture(request.picture, `picture${number}`);
    if (isCurrent()) {
      view.picture = picture;
      view.map = null;
      view.error = request.why ?? "";
      this.explorer.later("draw");
    }
    let stack = null;
    if (request.stack) stack = await this.stack(request.stack, `map${number}`);
    if (isCurrent()) {
      this.show(view, request, stack);
      this.explorer.later("draw");
    }
  }

  show(view, request, stack) {
    view.map = stack && request.read(stack);
    view.token = request.token;
    view.error = request.why ?? "";
    view.colouring = "";
  }

  async stack(key, slot) {
    return this.stacks.get(key) ?? this.stacks.set(key, await this.explorer.source.ask(key, slot));
  }

  async picture(key, slot) {
    const known = this.pictures.get(key);
    if (known) return known;
    const answer = await this.explorer.source.ask(key, slot);
    const bitmap = await createImageBitmap(new Blob([answer.bytes], { type: "image/jpeg" }));
    const canvas = makeCanvas(bitmap.width, bitmap.height);
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0);
    bitmap.close();
    const picture = new Picture(canvas, answer, this.explorer.catalogue.stains);
    return this.pictures.get(key) ?? this.pictures.set(key, picture);
  }

  // ----- the token that attention starts from

  pickToken({ x, y }, k) {
    const panels = this.settings();
    if (panels.some((panel) => this.attends(panel))) {
      const rounded = [x, y].map((value) => Math.round(1e4 * clamp(value, 0, 0.9999)) / 1e4);
      this.tokenMoved = true;
      this.explorer.set({ token: rounded });
      this.explorer.later("draw");
    } else if (panels[k].shows === "map") {
      this.explorer.say(
        "This map has no tokens to click: the method Attention of a transformer has.");
    }
  }

  nudgeToken(right, down) {
    const network = this.explorer.network();
    if (!network?.layers) return;
    const [x = 0.5, y = 0.5] = this.explorer.get("token");
    const [h, w] = network.grid;
    const nextX = clamp(x + right / w, 0.5 / w, 1 - 0.5 / w);
    const nextY = clamp(y + down / h, 0.5 / h, 1 - 0.5 / h);
    this.explorer.set({ token: [nextX, nextY] });
  }

  sayToken() {
    // What a click or a key did to the token, said once its map is in sight.
    const panels = this.settings();
    const k = panels.findIndex((panel) => this.attends(panel));
    const view = this.views[k];
    if (!view) {
      this.tokenMoved = false;
      return;
    }
    const token = this.token(panels[k]);
    const onItsWay = String(view.token ?? "") !== String(token ?? "");
    if (!view.map || onItsWay) return;
    this.tokenMoved = false;
    this.explorer.say(this.explorer.captions.tokenSentence(token, view));
  }
}
