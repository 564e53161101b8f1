// ---------- the panel of controls, the same in the notebook and in the page

const MOST_PANELS = 4;
const LEAST_PANELS = 2;

class Controls {
  constructor(explorer) {
    this.explorer = explorer;
    this.inputs = {}; // trait -> its input
    this.filters = this.makeFilters();
    this.node = this.makePanel();
  }

  // ----- building

  makeFilters() {
    const scores = ["any", ...this.explorer.catalogue.scores, "?"];
    const form = make("form", { className: "filters", ariaLabel: "Filters" },
      this.text("search", "File name"),
      this.select("truth", "True", sameNames(scores)),
      this.select("predicted", "Predicted", sameNames(scores)),
      this.select("verdict", "Verdict", sameNames(["any", "right", "wrong"])),
      this.number("sure_from", "Sure from %"),
      this.number("sure_to", "to %"),
      this.checkbox("disagree", "raters disagree"),
      this.checkbox("doubt", "label in doubt"),
      this.explorer.strip.count);
    form.addEventListener("submit", (event) => event.preventDefault());
    return form;
  }

  makePanel() {
    const { shows, targets } = this.explorer.catalogue;
    this.heading = make("h3");
    return make("section", { className: "controls", ariaLabel: "Selected panel" },
      make("div", { className: "heading" }, this.heading,
        makeButton("−", () => this.removePanel(), "Fewer panels"),
        makeButton("+", () => this.addPanel(), "More panels")),
      this.select("shows", "Shows", Object.entries(shows)),
      this.select("network", "Network", this.networkNames()),
      this.select("method", "Method", []),
      this.select("target", "Explains", Object.entries(targets)),
      this.slider("layer", "Layer", { min: 1, step: 1 }, String),
      this.slider("head", "Head", { min: 0, step: 1 }, (head) => (head ? String(head) : "mean")),
      this.slider("opacity", "Opacity", { min: 0, max: 1, step: 0.01 }, percent),
      this.slider("threshold", "Threshold", { min: 0, max: 1, step: 0.01 }, percent),
      make("div", { className: "pair" },
        this.checkbox("smooth", "smooth"), this.checkbox("stretch", "stretch")));
  }

  networkNames() {
    const { networks } = this.explorer.catalogue;
    if (!networks.length) return [["", "none has finished"]];
    return networks.map(({ run, name }) => [run, name]);
  }

  field(key, label, input, ...more) {
    this.inputs[key] = input;
    return make("label", { className: `field ${key}` }, make("span", {}, label), input, ...more);
  }

  text(key, label) {
    const oninput = (event) => this.explorer.set({ [key]: event.target.value });
    return this.field(key, label, make("input", { type: "search", oninput }));
  }

  number(key, label) {
    const oninput = (event) => this.explorer.set({ [key]: Number(event.target.value) });
    const input = make("input", { type: "number", min: 0, max: 100, oninput });
    return this.field(key, label, input);
  }

  checkbox(key, label) {
    const onchange = (event) => this.explorer.set({ [key]: event.target.checked });
    return this.field(key, label, make("input", { type: "checkbox", onchange }));
  }

  select(key, label, options) {
    const onchange = (event) => this.explorer.set({ [key]: event.target.value });
    return this.field(key, label, make("select", { onchange }, ...makeOptions(options)));
  }

  slider(key, label, limits, written) {
    const oninput = (event) => this.explorer.set({ [key]: Number(event.target.value) });
    const input = make("input", { type: "range", ...limits, oninput });
    input.written = written;
    input.output = make("output");
    return this.field(key, label, input, input.output);
  }

  // ----- how many panels

  addPanel() {
    const panels = this.explorer.get("panels");
    if (panels.length >= MOST_PANELS) return;
    this.explorer.set({ panels: [...panels, { ...panels.at(-1) }], selected: panels.length });
  }

  removePanel() {
    const panels = this.explorer.get("panels");
    if (panels.length <= LEAST_PANELS) return;
    const last = panels.length - 2;
    const selected = Math.min(this.explorer.get("selected"), last);
    this.explorer.set({ panels: panels.slice(0, -1), selected });
  }

  // ----- showing the state

  show() {
    const { explorer, inputs } = this;
    const network = explorer.network();
    this.showMethods(network?.methods ?? []);
    inputs.layer.max = network?.layers || 1;
    inputs.head.max = network?.heads || 0;
    this.switchOff(network);
    for (const [key, input] of Object.entries(inputs)) this.showValue(input, explorer.get(key));
    if (this.meanOnly(network)) inputs.head.output.textContent = "mean";
    const number = explorer.get("selected") + 1;
    this.heading.textContent = `Panel ${number} of ${explorer.get("panels").length}`;
  }

  showMethods(methods) {
    const { method } = this.inputs;
    if (method.dataset.methods === methods.join()) return;
    method.dataset.methods = methods.join();
    const rows = this.explorer.catalogue.methods;
    method.replaceChildren(...makeOptions(methods.map((name) => [name, rows[name].label])));
  }

  switchOff(network) {
    // Controls that would change nothing now.
    const { inputs } = this;
    const map = network !== undefined && this.explorer.get("shows") === "map";
    const attention = this.attends(network);
    const method = this.explorer.catalogue.methods[this.explorer.get("method")];
    inputs.method.disabled = !map;
    inputs.target.disabled = !map || !method?.scored;
    inputs.layer.disabled = !attention;
    inputs.head.disabled = !attention || this.meanOnly(network);
  }

  attends(network) {
    const { explorer } = this;
    const attention = explorer.get("shows") === "map" && explorer.get("method") === "attention";
    return attention && network?.layers > 0;
  }

  meanOnly(network) {
    // The page holds token attention as the mean of the heads.
    const { explorer } = this;
    const fromToken = explorer.get("token").length > 0;
    return explorer.catalogue.page && fromToken && this.attends(network);
  }

  showValue(input, value) {
    const typing = document.activeElement === input && input.type !== "range";
    if (input.type === "checkbox") input.checked = value;
    else if (!typing && String(input.value) !== String(value)) input.value = value;
    if (input.output) input.output.textContent = input.written(value);
  }
}

function sameNames(values) {
  return values.map((value) => [value, value]);
}

function makeOptions(pairs) {
  return pairs.map(([value, text]) => make("option", { value }, text));
}
