// The messages of the open thread: a window of them in the page, however long the thread is, moved as one scrolls.
import { get, post } from "./api.js";
import { clock, day, fill, h, linked } from "./dom.js";
import { Feed } from "./feed.js";

const PAGE = 50; // messages asked for on each side
const MOST = 300; // in the page at once
const NEAR_PX = 600; // of an end: then more is fetched
const TOGETHER_MS = 5 * 60_000; // messages of one author within this are one group
const READ_MS = 700; // between two marks of what has been read

/** @typedef {import("./outbox.js").Entry} Entry */

export class Timeline {
  /**
   * @param {any} thread as GET /api/threads/{id} gives it
   * @param {{me: any, outbox: import("./outbox.js").Outbox, reply: (message: any) => void, typing: (names: string[]) => void,
   *   state: (state: string, retryAt: number) => void, changed: (thread: any) => void, gone: () => void}} to
   */
  constructor(thread, to) {
    this.thread = thread;
    this.to = to;
    /** @type {any[]} what is in the page, by seq */
    this.items = [];
    /** @type {Map<number, HTMLElement>} */
    this.rows = new Map();
    this.lastSeq = thread.lastSeq;
    this.atStart = this.atEnd = false;
    this.loading = false;
    this.names = new Map((thread.members ?? []).map((/** @type {any} */ one) => [one.userId, one.name]));
    /** @type {Map<number, {delivered: number, read: number}>} */
    this.reach = new Map();
    /** @type {Set<number>} */
    this.typists = new Set();
    this.marking = 0;
    this.closed = false;
    this.read = thread.lastReadSeq;
    this.unreadFrom = thread.firstUnreadSeq;
    this.list = h("ol", { class: "messages", role: "log", "aria-label": "Messages", "aria-live": "polite" });
    this.waiting = h("ol", { class: "messages waiting" });
    this.scroller = h("div", { class: "timeline", tabindex: "0", onscroll: () => this.scrolled() }, this.list, this.waiting);
    this.newest = h("button", { class: "newest", hidden: true, onclick: () => this.toEnd() }, "Newest");
    this.element = h("div", { class: "thread-body" }, this.scroller, this.newest);
    this.sizes = new ResizeObserver(() => this.bottom && this.stick());
    this.sizes.observe(this.scroller);
    this.bottom = true;
    this.visible = () => this.mark();
    document.addEventListener("visibilitychange", this.visible);
  }

  /** Opens at a message, at the first unread one, or at the end. @param {number} [at] */
  async open(at) {
    const middle = at ?? (this.thread.unreadCount ? this.thread.firstUnreadSeq : null);
    const cursor = await this.fetch(middle);
    if (this.closed) return;
    const row = middle && this.rows.get(this.nearest(middle));
    if (row) {
      row.scrollIntoView({ block: at ? "center" : "start" });
      if (at) row.classList.add("found");
      this.scrolled();
    } else this.stick();
    this.showWaiting();
    this.feed = new Feed(`/api/threads/${this.thread.id}/stream`, cursor, {
      told: (name, data) => this.told(name, data),
      state: this.to.state,
      gone: this.to.gone,
    });
  }

  close() {
    this.closed = true;
    this.feed?.close();
    this.sizes.disconnect();
    clearTimeout(this.marking);
    document.removeEventListener("visibilitychange", this.visible);
  }

  /**
   * A window around a message, or the newest, in the place of all.
   * @param {number | null} middle
   * @returns {Promise<string>} the cursor of the stream that goes on from it
   */
  async fetch(middle) {
    const page = await this.page(middle ? `around=${middle}&limit=${2 * PAGE}` : `order=desc&limit=${PAGE}`);
    this.items = [];
    this.rows.clear();
    this.list.replaceChildren();
    this.put(page.items);
    this.atStart = page.first;
    this.atEnd = page.last && this.high >= this.lastSeq;
    return page.streamCursor;
  }

  /** @param {string} asked */
  async page(asked) {
    const page = await get(`/api/threads/${this.thread.id}/messages?${asked}`);
    const descends = asked.startsWith("order=desc");
    const items = descends ? page.items.reverse() : page.items;
    const [before, after] = descends ? [page.nextCursor, page.prevCursor] : [page.prevCursor, page.nextCursor];
    return { items, first: before === null, last: after === null, streamCursor: page.streamCursor };
  }

  get low() {
    return this.items.length ? this.items[0].seq : 0;
  }
  get high() {
    return this.items.length ? this.items[this.items.length - 1].seq : 0;
  }

  /** @param {number} seq */
  nearest(seq) {
    const found = this.items.find((one) => one.seq >= seq) ?? this.items[this.items.length - 1];
    return found ? found.seq : 0;
  }

  /** Into the page what is new of these, or newer. @param {any[]} messages */
  put(messages) {
    for (const message of messages) {
      const at = this.items.findIndex((one) => one.seq >= message.seq);
      if (at >= 0 && this.items[at].seq === message.seq) {
        if (this.items[at].rev > message.rev) continue;
        this.items[at] = { ...message, status: message.status ?? this.items[at].status };
      } else this.items.splice(at < 0 ? this.items.length : at, 0, message);
    }
    this.render();
  }

  /** The rows as the items are: those that are the same stay. */
  render() {
    /** @type {Element | null} */
    let place = this.list.firstElementChild;
    /** @type {any} */
    let before = null;
    const kept = new Set();
    for (const message of this.items) {
      const key = this.look(message, before);
      let row = this.rows.get(message.seq);
      if (!row || row.dataset.look !== key) {
        const made = this.row(message, before);
        made.dataset.look = key;
        if (row === place && row) place = row.nextElementSibling;
        row?.remove();
        this.rows.set(message.seq, (row = made));
      }
      if (row === place) place = row.nextElementSibling;
      else this.list.insertBefore(row, place);
      kept.add(message.seq);
      before = message;
    }
    for (const [seq, row] of this.rows)
      if (!kept.has(seq)) {
        row.remove();
        this.rows.delete(seq);
      }
  }

  /** What a row depends on. @param {any} message @param {any} before */
  look(message, before) {
    return [message.rev, this.status(message), this.heads(message, before), this.opensDay(message, before), message.seq === this.unreadFrom].join();
  }

  /** @param {any} message @param {any} before */
  opensDay(message, before) {
    return !before || day(before.createdAt) !== day(message.createdAt);
  }

  /** Whether it begins a group. @param {any} message @param {any} before */
  heads(message, before) {
    return (
      this.opensDay(message, before) || before.author.id !== message.author.id || message.replyTo !== undefined ||
      Date.parse(message.createdAt) - Date.parse(before.createdAt) > TOGETHER_MS
    );
  }

  /** @param {any} message @param {any} before */
  row(message, before) {
    const mine = message.author.id === this.to.me.id, head = this.heads(message, before);
    const text = message.deletedAt ? h("span", { class: "deleted" }, "Deleted") : linked(message.text);
    const quote = message.replyTo;
    return h(
      "li",
      { class: `message${head ? " head" : ""}${mine ? " mine" : ""}`, "data-seq": message.seq, id: `m${message.seq}` },
      this.opensDay(message, before) && h("div", { class: "day", role: "separator" }, day(message.createdAt)),
      message.seq === this.unreadFrom && h("div", { class: "unread-line", role: "separator" }, "New"),
      h(
        "div",
        { class: "bubble" },
        head && h("div", { class: "who" }, h("bdi", {}, message.author.name), h("time", { datetime: message.createdAt }, clock(message.createdAt))),
        quote && h("button", { class: "quote", onclick: () => this.jump(quote.seq) }, h("bdi", {}, quote.author ? `${quote.author.name}: ${quote.text}` : `Message ${quote.seq}`)),
        h("p", { dir: "auto" }, text),
        message.editedAt && !message.deletedAt && h("small", {}, "edited"),
        message.reactions.length > 0 && h("div", { class: "reactions" }, message.reactions.map((/** @type {any} */ one) => h("span", {}, `${one.emoji} ${one.count}`))),
        mine && h("small", { class: "status" }, this.status(message)),
      ),
      !message.deletedAt && h("button", { class: "act", title: "Reply", "aria-label": `Reply to ${message.author.name}`, onclick: () => this.to.reply(message) }, "↩"),
    );
  }

  /** What is on its way, below all else. */
  showWaiting() {
    const entries = this.to.outbox.of(this.thread.id);
    fill(
      this.waiting,
      entries.map((/** @type {Entry} */ entry) =>
        h(
          "li",
          { class: `message mine head ${entry.state}`, "data-client-id": entry.clientId },
          h(
            "div",
            { class: "bubble" },
            h("p", { dir: "auto" }, linked(entry.text)),
            h("small", { class: "status" }, entry.state === "failed" ? (entry.why ?? "Not sent") : "sending"),
            entry.state === "failed" && [
              h("button", { onclick: () => this.to.outbox.retry(entry.clientId) }, "Retry"),
              h("button", { onclick: () => this.to.outbox.drop(entry.clientId) }, "Delete"),
            ],
          ),
        ),
      ),
    );
    if (this.bottom) this.stick();
  }

  /** Somebody here has written: show it. */
  wrote() {
    if (this.atEnd) {
      this.bottom = true;
      this.showWaiting();
    } else this.toEnd();
  }

  /** @param {string} name @param {any} data */
  told(name, data) {
    if (name === "message") this.arrived(data);
    else if (name === "message_updated") {
      if (this.rows.has(data.seq)) this.anchored(() => this.put([data]));
    } else if (name === "thread_updated") this.to.changed(data);
    else if (name === "typing") this.typing(data);
    else if (name === "receipt") this.reached(data);
    else if (name === "thread_deleted") this.to.gone();
    else if (name === "resync") this.resync();
  }

  /** A message, by the stream or as the answer to a send. @param {any} message */
  arrived(message) {
    this.lastSeq = Math.max(this.lastSeq, message.seq);
    if (this.typists.delete(message.author.id)) this.typing({ isTyping: false, userId: message.author.id });
    if (message.author.id === this.to.me.id) this.read = Math.max(this.read, message.seq); // who answers has read
    if (message.clientId && message.author.id === this.to.me.id) this.to.outbox.drop(message.clientId);
    if (this.atEnd && message.seq > this.high) {
      this.anchored(() => {
        this.put([message]);
        if (this.bottom && this.items.length > MOST) this.cut(0, this.items.length - MOST);
      });
      if (!this.bottom && this.items.length > 2 * MOST) this.cutEnd();
    } else if (this.rows.has(message.seq)) this.put([message]);
    this.showNewest();
    this.mark();
  }

  /** What was missed can't be told one by one: everything anew, where one was. */
  async resync() {
    const middle = this.bottom ? null : this.seen();
    this.thread = (await get(`/api/threads/${this.thread.id}`)).thread;
    this.lastSeq = Math.max(this.lastSeq, this.thread.lastSeq);
    await this.fetch(middle);
    const row = middle && this.rows.get(this.nearest(middle));
    if (row) row.scrollIntoView({ block: "center" });
    else this.stick();
  }

  /** Changes the rows; what one looks at stays where it is. @param {() => void} change */
  anchored(change) {
    const seq = this.seen(), row = this.rows.get(seq);
    const top = row?.getBoundingClientRect().top ?? 0;
    change();
    const now = this.rows.get(seq);
    if (this.bottom) this.stick();
    else if (now) this.scroller.scrollTop += now.getBoundingClientRect().top - top;
  }

  /** The first message in sight. */
  seen() {
    const top = this.scroller.getBoundingClientRect().top;
    let low = 0, high = this.items.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      const row = /** @type {HTMLElement} */ (this.rows.get(this.items[middle].seq));
      if (row.getBoundingClientRect().bottom <= top) low = middle + 1;
      else high = middle;
    }
    return this.items.length ? this.items[low].seq : 0;
  }

  /** @param {number} from @param {number} count */
  cut(from, count) {
    this.items.splice(from, count);
    if (from === 0) this.atStart = false;
    else this.atEnd = false;
    this.render();
  }

  cutEnd() {
    this.cut(MOST, this.items.length - MOST);
    this.showNewest();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    this.bottom = this.atEnd && below < 40;
    this.showNewest();
    if (scrollTop < NEAR_PX && !this.atStart) this.more(-1);
    else if (below < NEAR_PX && !this.atEnd) this.more(1);
    this.mark();
  }

  /** More on one side, and less on the other. @param {-1 | 1} side */
  async more(side) {
    if (this.loading || this.closed || !this.items.length) return;
    this.loading = true;
    try {
      const page = await this.page(`around=${side < 0 ? this.low - 1 : this.high + 1}&limit=${2 * PAGE}`);
      if (this.closed) return;
      this.anchored(() => {
        this.put(page.items);
        if (side < 0) {
          this.atStart = page.first;
          if (this.items.length > MOST) this.cut(MOST, this.items.length - MOST);
        } else {
          this.atEnd = page.last && this.high >= this.lastSeq;
          if (this.items.length > MOST) this.cut(0, this.items.length - MOST);
        }
      });
    } catch {
      // The next scroll tries again.
    } finally {
      this.loading = false;
    }
    this.showNewest();
  }

  /** @param {number} seq */
  async jump(seq) {
    if (!this.rows.has(seq)) await this.fetch(seq);
    const row = this.rows.get(this.nearest(seq));
    row?.scrollIntoView({ block: "center" });
    for (const one of this.list.querySelectorAll(".found")) one.classList.remove("found");
    row?.classList.add("found");
  }

  async toEnd() {
    if (!this.atEnd) await this.fetch(null);
    this.bottom = true;
    this.showWaiting();
    this.stick();
    this.showNewest();
    this.mark();
  }

  stick() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  showNewest() {
    const more = this.lastSeq - (this.bottom ? this.lastSeq : Math.max(this.read, 0));
    this.newest.hidden = this.bottom || (this.atEnd && this.scroller.scrollHeight <= this.scroller.clientHeight);
    this.newest.textContent = more > 0 ? `${more} new` : "Newest";
  }

  /** Tells the server how far one has read: what has been in sight at the end. */
  mark() {
    if (document.hidden || !this.bottom || this.lastSeq <= this.read || this.marking) return;
    this.marking = setTimeout(async () => {
      this.marking = 0;
      const seq = this.lastSeq;
      if (document.hidden || !this.bottom || this.closed) return;
      await post(`/api/threads/${this.thread.id}/read`, { seq }).then(() => (this.read = Math.max(this.read, seq)), () => {});
    }, READ_MS);
  }

  /** How far somebody has come: both only rise. @param {any} data */
  reached(data) {
    const known = this.reach.get(data.userId) ?? { delivered: 0, read: 0 };
    this.reach.set(data.userId, {
      delivered: Math.max(known.delivered, data.deliveredSeq),
      read: Math.max(known.read, data.readSeq ?? 0),
    });
    this.render();
  }

  /** Of a message of mine: told with it, or by what the others have reached since. @param {any} message */
  status(message) {
    const others = (this.thread.members ?? []).filter((/** @type {any} */ one) => one.userId !== this.to.me.id);
    if (message.author.id !== this.to.me.id || message.deletedAt) return "";
    const told = message.status ?? "sent";
    if (!others.length || others.length + 1 !== this.thread.memberCount || told === "read") return told;
    const all = others.map((/** @type {any} */ one) => this.reach.get(one.userId) ?? { delivered: 0, read: 0 });
    if (all.every((/** @type {any} */ one) => one.read >= message.seq)) return "read";
    return told === "delivered" || all.every((/** @type {any} */ one) => one.delivered >= message.seq) ? "delivered" : told;
  }

  /** @param {any} data */
  typing(data) {
    if (data.isTyping && data.userId !== this.to.me.id) this.typists.add(data.userId);
    else this.typists.delete(data.userId);
    this.to.typing([...this.typists].map((id) => this.names.get(id) ?? "Somebody"));
  }
}
