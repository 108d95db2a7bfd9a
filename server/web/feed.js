// A live stream that comes back by itself, from where it was. One place of the log: the cursor of the last event told.

/** @typedef {"connecting" | "live" | "waiting"} State */

const FIRST_MS = 1_000, MOST_MS = 30_000; // between two tries
const SILENT_MS = 40_000; // the server says something every 15 s: after so long the line is dead

export class Feed {
  /**
   * @param {string} path of the stream
   * @param {string | null} cursor from where on; null: from now
   * @param {{told: (name: string, data: any) => void, state: (state: State, retryAt: number) => void, gone: () => void}} to
   */
  constructor(path, cursor, to) {
    this.path = path;
    this.cursor = cursor;
    this.to = to;
    this.tries = 0;
    /** @type {AbortController | null} */
    this.line = null;
    this.timer = 0;
    this.watch = 0;
    this.closed = false;
    this.again = () => this.now();
    addEventListener("online", this.again);
    document.addEventListener("visibilitychange", this.again);
    this.open();
  }

  /** A try at once, instead of waiting: the network is back, the laptop woke up, or somebody asked for it. */
  now() {
    if (this.closed || document.hidden || (this.line && Date.now() - this.heardAt < SILENT_MS)) return;
    this.line?.abort();
    clearTimeout(this.timer);
    this.tries = 0;
    this.open();
  }

  close() {
    this.closed = true;
    this.line?.abort();
    clearTimeout(this.timer);
    clearInterval(this.watch);
    removeEventListener("online", this.again);
    document.removeEventListener("visibilitychange", this.again);
  }

  async open() {
    const line = (this.line = new AbortController());
    this.heardAt = Date.now();
    this.to.state("connecting", 0);
    clearInterval(this.watch);
    this.watch = setInterval(() => Date.now() - this.heardAt > SILENT_MS && line.abort(), 5_000);
    let retryMs = 0;
    try {
      const headers = this.cursor ? { "Last-Event-ID": this.cursor } : undefined;
      const answer = await fetch(this.path, { headers, signal: line.signal, cache: "no-store" });
      if (answer.status === 401 || answer.status === 403 || answer.status === 404) {
        this.close();
        this.to.gone();
        return;
      }
      if (!answer.ok || !answer.body) throw new Error(`status ${answer.status}`);
      this.tries = 0;
      this.to.state("live", 0);
      retryMs = await this.listen(answer.body, line);
    } catch {
      // Whatever it was: another try.
    }
    if (this.closed || this.line !== line) return;
    clearInterval(this.watch);
    this.line = null;
    const wait = retryMs || Math.min(FIRST_MS * 2 ** this.tries, MOST_MS) * (0.75 + Math.random() / 2);
    this.tries += 1;
    this.to.state("waiting", Date.now() + wait);
    this.timer = setTimeout(() => this.open(), wait);
  }

  /**
   * Tells each event, and keeps its id only then.
   * @param {ReadableStream<Uint8Array>} body
   * @param {AbortController} line
   * @returns {Promise<number>} milliseconds to wait, where the server has said goodbye
   */
  async listen(body, line) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", name = "message", data = /** @type {string[]} */ ([]), id = /** @type {string | null} */ (null);
    let retry = 0, bye = false;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return bye ? retry * Math.random() : 0;
      this.heardAt = Date.now();
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const one of lines) {
        if (line.signal.aborted) return 0;
        if (one === "") {
          if (name === "bye") bye = true;
          else if (data.length) this.to.told(name, JSON.parse(data.join("\n")));
          if (id !== null) this.cursor = id;
          [name, data, id] = ["message", [], null];
        } else if (one.startsWith("data:")) data.push(one.slice(5).trimStart());
        else if (one.startsWith("event:")) name = one.slice(6).trim();
        else if (one.startsWith("id:")) id = one.slice(3).trim();
        else if (one.startsWith("retry:")) retry = Number(one.slice(6)) || 0;
      }
    }
  }
}
