// What was written and is not yet known to have arrived. It survives a reload, and each entry keeps its clientId: however
// often it is sent, there is one message.
import { Refused, post } from "./api.js";

/** @typedef {{clientId: string, threadId: number, text: string, replyTo?: number, at: string, state: "sending" | "failed", why?: string}} Entry */

const FIRST_MS = 1_000, MOST_MS = 30_000;

export class Outbox {
  /**
   * @param {number} userId
   * @param {(threadId: number) => void} changed
   * @param {(message: any) => void} sent
   */
  constructor(userId, changed, sent) {
    this.key = `bobbin:outbox:${userId}`;
    this.changed = changed;
    this.sent = sent;
    /** @type {Set<number>} threads in which one is under way: they go in order */
    this.busy = new Set();
    this.tries = 0;
    this.closed = false;
    /** @type {Entry[]} */
    this.entries = JSON.parse(localStorage.getItem(this.key) ?? "[]");
    this.again = () => this.pump();
    addEventListener("online", this.again);
    this.pump();
  }

  close() {
    this.closed = true;
    removeEventListener("online", this.again);
  }

  /** @param {number} threadId */
  of(threadId) {
    return this.entries.filter((entry) => entry.threadId === threadId);
  }

  /** @param {number} threadId @param {string} text @param {number} [replyTo] */
  add(threadId, text, replyTo) {
    const clientId = `web-${crypto.randomUUID()}`;
    this.entries.push({ clientId, threadId, text, replyTo, at: new Date().toISOString(), state: "sending" });
    this.keep(threadId);
    this.pump();
  }

  /** @param {string} clientId */
  retry(clientId) {
    const entry = this.entries.find((one) => one.clientId === clientId);
    if (!entry) return;
    entry.state = "sending";
    delete entry.why;
    this.keep(entry.threadId);
    this.pump();
  }

  /** It has arrived, or is not wanted any more. @param {string} clientId */
  drop(clientId) {
    const entry = this.entries.find((one) => one.clientId === clientId);
    if (!entry) return;
    this.entries = this.entries.filter((one) => one !== entry);
    this.keep(entry.threadId);
  }

  /** @param {number} threadId */
  keep(threadId) {
    localStorage.setItem(this.key, JSON.stringify(this.entries));
    this.changed(threadId);
  }

  pump() {
    clearTimeout(this.timer);
    if (this.closed) return;
    for (const entry of this.entries)
      if (entry.state === "sending" && !this.busy.has(entry.threadId)) this.send(entry);
  }

  /** @param {Entry} entry */
  async send(entry) {
    this.busy.add(entry.threadId);
    const { threadId, clientId, text, replyTo } = entry;
    let wait = 0;
    try {
      const answer = await post(`/api/threads/${threadId}/messages`, replyTo ? { text, clientId, replyTo } : { text, clientId });
      this.tries = 0;
      this.drop(clientId);
      this.sent(answer.message);
    } catch (error) {
      if (error instanceof Refused && !error.passing) {
        if (error.status !== 401) Object.assign(entry, { state: "failed", why: error.message });
        this.keep(threadId);
      } else {
        wait = Math.min(FIRST_MS * 2 ** this.tries, MOST_MS) * (0.75 + Math.random() / 2);
        if (error instanceof Refused) wait = Math.max(wait, error.after * 1_000);
        this.tries += 1;
      }
    } finally {
      this.busy.delete(threadId);
    }
    if (wait) this.timer = setTimeout(() => this.pump(), wait);
    else this.pump();
  }
}
