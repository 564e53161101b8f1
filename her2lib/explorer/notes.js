// ---------- notes: on the kernel's disk in the notebook, in this browser in the page

const NOTE_COLUMNS = ["time", "reader", "patch", "score", "note"];

class KernelNotes {
  constructor(source) {
    this.source = source;
  }

  add(note) {
    return this.source.addNote(note);
  }
}

class BrowserNotes {
  // Every note has a key of its own, so none overwrites another; they stay until downloaded.
  constructor(study) {
    this.study = study;
    this.prefix = `her2-note:${study}:`;
  }

  async add({ reader, patch, score, note }) {
    const now = new Date().toISOString();
    const time = now.replace(/\.\d+Z/, "+00:00");
    const row = { time, reader, patch, score, note: note.replace(/\s+/g, " ") };
    try {
      localStorage.setItem(`${this.prefix}${now}:${Math.random()}`, JSON.stringify(row));
    } catch (error) {
      const why = `This browser keeps nothing (${error.name})`;
      throw new Error(`${why}: use the notebook 90_explorer, which writes to disk.`);
    }
    return `Kept in this browser for ${reader}: ${patch}. Download before you clear it.`;
  }

  all() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
    return keys.sort().map((key) => JSON.parse(localStorage.getItem(key)));
  }

  download() {
    const rows = this.all();
    if (!rows.length) return "There is no note to download yet.";
    const cells = rows.map((row) => NOTE_COLUMNS.map((column) => row[column]));
    const lines = [NOTE_COLUMNS, ...cells].map((row) => row.map(quoted).join(","));
    const csv = new Blob([`${lines.join("\n")}\n`], { type: "text/csv" });
    download(`notes_${this.study}.csv`, csv);
    return `${rows.length} notes downloaded: put the file into the study's folder notes/.`;
  }
}

function quoted(value) {
  return `"${String(value).replace(/"/g, '""')}"`;
}

class Notes {
  // The form below the controls; store: KernelNotes or BrowserNotes.
  constructor(explorer, store) {
    this.explorer = explorer;
    this.store = store;
    this.reader = make("input", { type: "text", autocomplete: "name", maxLength: 60 });
    this.proposed = make("select", {}, ...this.makeScores());
    this.note = make("textarea", { rows: 2, maxLength: 2000 });
    this.sentence = make("p", { className: "sentence", role: "status" });
    this.list = make("ul", { className: "list" });
    this.node = make("section", { className: "notes", ariaLabel: "Notes" },
      make("h3", {}, "Note on this patch"),
      noteField("Reader", this.reader),
      noteField("Proposed", this.proposed),
      noteField("Note", this.note),
      make("div", { className: "pair" }, ...this.makeButtons()),
      this.sentence,
      this.list);
  }

  makeScores() {
    const scores = this.explorer.catalogue.scores;
    return [make("option", { value: "" }, "none"), ...makeOptions(sameNames(scores))];
  }

  makeButtons() {
    const buttons = [makeButton("Save note", () => this.save())];
    if (this.store.download) {
      const save = () => setText(this.sentence, this.store.download());
      buttons.push(makeButton("Download notes", save, "CSV for the study's folder notes/"));
    }
    return buttons;
  }

  async save() {
    const row = {
      reader: this.reader.value.trim(),
      patch: this.explorer.patch().name,
      score: this.proposed.value,
      note: this.note.value.trim(),
    };
    const problem = noteProblem(row);
    if (problem) {
      setText(this.sentence, problem);
      return;
    }
    setText(this.sentence, "Saving …");
    try {
      const sentence = await this.store.add(row);
      this.clear(row);
      setText(this.sentence, sentence);
      this.show();
    } catch (error) {
      // What was written stays in the form, so that it is not lost.
      setText(this.sentence, error.message);
    }
  }

  clear(saved) {
    // Not what was written since: a busy kernel acknowledges late.
    if (this.note.value.trim() === saved.note) this.note.value = "";
    if (this.proposed.value === saved.score) this.proposed.value = "";
  }

  show() {
    // The notes on this patch that this browser keeps.
    if (!this.store.all) return;
    const { name } = this.explorer.patch();
    const texts = this.store.all().filter((row) => row.patch === name).map(noteText);
    if (this.listed === texts.join("\n")) return;
    this.listed = texts.join("\n");
    this.list.replaceChildren(...texts.map((text) => make("li", {}, text)));
  }
}

function noteField(label, input) {
  return make("label", { className: "field" }, make("span", {}, label), input);
}

function noteProblem({ reader, score, note }) {
  if (!reader) return "Give your name as reader first: every note carries it.";
  if (!score && !note) return "Write a note or propose a score first.";
  return "";
}

function noteText({ reader, score, note }) {
  const proposed = `${reader}: ${score || "no score"}`;
  return note ? `${proposed}, ${note}` : proposed;
}
