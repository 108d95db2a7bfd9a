// The page: who is signed in, the list of threads beside the one that is open, and what is written into it.
import { Refused, call, get, post, session } from "./api.js";
import { fill, h, when } from "./dom.js";
import { Feed } from "./feed.js";
import { Outbox } from "./outbox.js";
import { Timeline } from "./timeline.js";

const LISTED = 50; // threads asked for at once
const TYPING_MS = 2_000; // between two notices that one types

/** What somebody reads of an error. @param {unknown} error */
const words = (error) =>
  error instanceof Refused ? [error.message, ...Object.entries(error.details).map(([name, said]) => `${name} ${said}.`)].join(" ") : "The server can't be reached.";

// ---- signing in --------------------------------------------------------------------------------

/** @param {(me: any) => void} done */
function signIn(done) {
  let registers = false;
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", { class: "sign-in", onsubmit: submit });
  const field = (/** @type {string} */ label, /** @type {Record<string, any>} */ more) => h("label", {}, label, h("input", { required: true, ...more }));
  show();
  document.title = "Bobbin";
  fill(document.body, h("main", { class: "door" }, h("img", { src: "/web/icon.svg", alt: "", width: 56, height: 56 }), h("h1", {}, "Bobbin"), form));
  form.querySelector("input")?.focus();

  function show() {
    fill(
      form,
      registers && field("Name", { name: "name", autocomplete: "name", maxlength: 100 }),
      field(registers ? "Email" : "Email or username", { name: "email", type: registers ? "email" : "text", autocomplete: "username", autocapitalize: "none" }),
      field("Password", { name: "password", type: "password", minlength: registers ? 8 : 1, autocomplete: registers ? "new-password" : "current-password" }),
      problem,
      h("button", { class: "primary" }, registers ? "Register" : "Sign in"),
      h("button", { type: "button", class: "plain", onclick: () => { registers = !registers; problem.textContent = ""; show(); } }, registers ? "I have an account" : "Register instead"),
    );
  }

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(form));
    const who = String(given.email).trim();
    try {
      const answer = registers
        ? await post("/api/auth/register", { ...given, email: who })
        : await post("/api/auth/login", { [who.includes("@") ? "email" : "username"]: who, password: given.password });
      done(answer.user);
    } catch (error) {
      problem.textContent = words(error);
    }
  }
}

// ---- signed in ---------------------------------------------------------------------------------

class Client {
  /** @param {any} me */
  constructor(me) {
    this.me = me;
    /** @type {Map<number, any>} */
    this.threads = new Map();
    /** @type {Timeline | null} */
    this.open = null;
    this.search = "";
    this.outbox = new Outbox(me.id, (threadId) => threadId === this.open?.thread.id && this.open.showWaiting(), (message) => message.threadId === this.open?.thread.id && this.open.arrived(message));
    this.list = h("ul", { class: "threads" });
    this.more = h("button", { class: "plain", hidden: true, onclick: () => this.load(this.next) }, "More");
    this.status = h("div", { class: "live", role: "status" });
    this.pane = h("main", { class: "pane" });
    this.fillPane();
    this.finder = h("input", { type: "search", placeholder: "Search threads", "aria-label": "Search threads", oninput: () => this.find() });
    fill(
      document.body,
      h(
        "div",
        { class: "client" },
        h(
          "nav",
          { class: "side", "aria-label": "Threads" },
          h("header", {}, h("strong", {}, me.name), h("button", { title: "New conversation", "aria-label": "New conversation", onclick: () => this.compose() }, "+"), h("button", { class: "plain", onclick: () => this.signOut() }, "Sign out")),
          this.finder,
          this.list,
          this.more,
          this.status,
        ),
        this.pane,
      ),
    );
    this.back = () => this.route();
    addEventListener("popstate", this.back);
    this.tick = setInterval(() => this.showState(), 1_000);
  }

  async start() {
    const cursor = await this.load(null);
    this.feed = new Feed("/api/stream", cursor, {
      told: (name, data) => this.told(name, data),
      state: (state, retryAt) => {
        this.state = { state, retryAt };
        this.showState();
      },
      gone: () => session.ended(),
    });
    await this.route();
  }

  close() {
    this.feed?.close();
    this.open?.close();
    this.outbox.close();
    clearInterval(this.tick);
    removeEventListener("popstate", this.back);
  }

  async signOut() {
    await post("/api/auth/logout").catch(() => {});
    session.ended();
  }

  // ---- the list

  /** @param {string | null | undefined} next @returns {Promise<string | null>} where the user stream goes on */
  async load(next) {
    const asked = new URLSearchParams({ limit: String(LISTED) });
    if (this.search) asked.set("search", this.search);
    if (next) asked.set("cursor", next);
    const search = this.search, page = await get(`/api/threads?${asked}`);
    if (search !== this.search) return null;
    if (!next) this.threads.clear();
    for (const thread of page.threads) this.threads.set(thread.id, thread);
    this.next = page.nextCursor;
    this.more.hidden = !this.next;
    this.showList();
    return page.streamCursor ?? null;
  }

  find() {
    clearTimeout(this.finding);
    this.finding = setTimeout(() => {
      this.search = this.finder.value.trim();
      this.load(null).catch(() => {});
    }, 150);
  }

  /** @param {any} thread */
  title(thread) {
    const other = thread.kind === "direct" && (thread.members ?? []).find((/** @type {any} */ one) => one.userId !== this.me.id);
    return thread.title ?? (other ? other.name : "Direct");
  }

  showList() {
    const threads = [...this.threads.values()].sort((a, b) => (b.lastMessageAt ?? b.createdAt).localeCompare(a.lastMessageAt ?? a.createdAt) || b.id - a.id);
    fill(
      this.list,
      threads.map((thread) => {
        const last = thread.lastMessage, unread = thread.id === this.open?.thread.id && this.open?.bottom && !document.hidden ? 0 : thread.unreadCount;
        return h(
          "li",
          {},
          h(
            "a",
            { href: `/threads/${thread.id}`, "aria-current": thread.id === this.open?.thread.id ? "page" : null, onclick: (/** @type {MouseEvent} */ event) => this.follow(event, `/threads/${thread.id}`) },
            h("bdi", { class: "title" }, `${thread.kind === "channel" ? "# " : ""}${this.title(thread)}`),
            h("time", {}, when(thread.lastMessageAt)),
            h("bdi", { class: "last" }, last ? (last.deletedAt ? "Deleted" : `${last.author.id === this.me.id ? "You" : last.author.name}: ${last.text}`) : ""),
            unread > 0 && h("span", { class: `badge${thread.muted ? " quiet" : ""}`, "aria-label": `${unread} unread` }, unread > 999 ? "999+" : unread),
            thread.mentionCount > 0 && unread > 0 && h("span", { class: "badge mention", "aria-label": "mentions you" }, "@"),
          ),
        );
      }),
      !threads.length && h("li", { class: "empty" }, this.search ? "Nothing found." : "No conversation yet."),
    );
    const unread = threads.reduce((sum, one) => sum + (one.muted ? 0 : one.unreadCount), 0);
    const open = this.open && this.threads.get(this.open.thread.id);
    document.title = `${unread ? `(${unread > 999 ? "999+" : unread}) ` : ""}${open ? this.title(open) : "Bobbin"}`;
  }

  /** @param {string} name @param {any} data */
  told(name, data) {
    if (name === "resync") this.load(null).catch(() => {});
    if (name !== "thread") return;
    if (data.role === null && !data.kind) {
      this.threads.delete(data.id);
      if (data.id === this.open?.thread.id) this.go("/");
    } else if (!this.search || this.threads.has(data.id)) this.threads.set(data.id, { ...this.threads.get(data.id), ...data });
    this.showList();
  }

  showState() {
    const { state, retryAt } = this.state ?? { state: "connecting", retryAt: 0 };
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1_000));
    const key = state === "waiting" ? `${seconds}` : state;
    if (key === this.shown) return;
    this.shown = key;
    this.status.dataset.state = state;
    fill(
      this.status,
      state === "live" ? "" : state === "connecting" ? "Connecting…" : `Reconnecting in ${seconds} s · `,
      state === "waiting" && h("button", { class: "plain", onclick: () => this.feed?.now() }, "try now"),
    );
  }

  // ---- where one is

  /** @param {MouseEvent} event @param {string} path */
  follow(event, path) {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.go(path);
  }

  /** @param {string} path */
  go(path) {
    if (path !== location.pathname + location.search) history.pushState(null, "", path);
    return this.route();
  }

  async route() {
    const found = /^\/threads\/(\d+)$/.exec(location.pathname);
    const at = Number(new URLSearchParams(location.search).get("at")) || undefined;
    this.open?.close();
    this.open = null;
    document.body.classList.toggle("inside", Boolean(found));
    if (!found) {
      this.fillPane();
      this.showList();
      return;
    }
    const here = (this.here = {});
    try {
      const { thread } = await get(`/api/threads/${found[1]}`);
      if (here === this.here) await this.enter(thread, at);
    } catch (error) {
      if (here === this.here) fill(this.pane, this.goBack(), h("p", { class: "empty", role: "alert" }, error instanceof Refused && error.status === 404 ? "There is no such conversation." : words(error)));
    }
  }

  goBack() {
    return h("a", { class: "back", href: "/", "aria-label": "All conversations", onclick: (/** @type {MouseEvent} */ event) => this.follow(event, "/") }, "←");
  }

  fillPane() {
    fill(this.pane, h("p", { class: "empty" }, "Choose a conversation, or begin one with +."));
  }

  /** @param {any} thread @param {number} [at] */
  async enter(thread, at) {
    const typing = h("div", { class: "typing", "aria-live": "off" });
    /** @type {any} */
    let quoted = null;
    const quoting = h("div", { class: "quoting", hidden: true });
    const draft = `bobbin:draft:${this.me.id}:${thread.id}`;
    const title = h("h1", {}, h("bdi", {}, this.title(thread)));
    const text = h("textarea", { rows: 1, maxlength: 20_000, placeholder: "Write a message", "aria-label": "Message", value: localStorage.getItem(draft) ?? "", oninput: changed, onkeydown: key });
    const form = h("form", { class: "composer", onsubmit: send }, quoting, text, h("button", { class: "primary", "aria-label": "Send" }, "Send"));
    const timeline = (this.open = new Timeline(thread, {
      me: this.me,
      outbox: this.outbox,
      reply: (message) => {
        quoted = message;
        fill(quoting, h("bdi", {}, `${message.author.name}: ${message.text.slice(0, 200)}`), h("button", { type: "button", "aria-label": "No reply", onclick: () => unquote() }, "×"));
        quoting.hidden = false;
        text.focus();
      },
      typing: (names) => (typing.textContent = names.length ? `${names.slice(0, 3).join(", ")} ${names.length > 1 ? "are" : "is"} typing…` : ""),
      state: () => {},
      changed: (news) => fill(title, h("bdi", {}, this.title({ ...thread, ...news }))),
      gone: () => this.go("/"),
    }));
    fill(
      this.pane,
      h("header", { class: "thread-head" }, this.goBack(), title, h("small", {}, thread.kind === "direct" ? "" : `${thread.memberCount} ${thread.memberCount === 1 ? "member" : "members"}`)),
      timeline.element,
      typing,
      thread.role === null ? h("button", { class: "primary join", onclick: () => this.join(thread.id) }, "Join this channel") : form,
    );
    this.showList();
    grow();
    if (thread.role === null) return;
    await timeline.open(at);
    if (matchMedia("(hover: hover)").matches) text.focus();

    let told = 0;
    const that = this;
    function unquote() {
      quoted = null;
      quoting.hidden = true;
    }
    function grow() {
      text.style.height = "auto";
      text.style.height = `${text.scrollHeight}px`;
    }
    function changed() {
      grow();
      if (text.value) localStorage.setItem(draft, text.value);
      else localStorage.removeItem(draft);
      if (text.value && Date.now() - told > TYPING_MS) {
        told = Date.now();
        post(`/api/threads/${thread.id}/typing`, { isTyping: true }).catch(() => {});
      }
    }
    /** @param {KeyboardEvent} event */
    function key(event) {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
      else if (event.key === "Escape") unquote();
    }
    /** @param {Event} event */
    function send(event) {
      event.preventDefault();
      const said = text.value.trim();
      if (!said) return;
      that.outbox.add(thread.id, said, quoted?.seq);
      text.value = "";
      unquote();
      changed();
      told = 0;
      timeline.wrote();
    }
  }

  /** @param {number} threadId */
  async join(threadId) {
    await post(`/api/threads/${threadId}/join`);
    await this.route();
  }

  // ---- beginning something

  compose() {
    const problem = h("p", { class: "problem", role: "alert" });
    const found = h("ul", { class: "found-people" });
    const finder = h("input", { type: "search", placeholder: "Find people or channels", "aria-label": "Find people or channels", oninput: find });
    const title = h("input", { placeholder: "Title", "aria-label": "Title", minlength: 2, maxlength: 255 });
    const kind = h("select", { "aria-label": "Kind" }, h("option", { value: "group" }, "Group"), h("option", { value: "channel" }, "Channel"));
    const dialog = h(
      "dialog",
      { class: "compose", onclose: () => dialog.remove() },
      h("h2", {}, "New conversation"),
      finder,
      found,
      h("form", { onsubmit: make }, title, kind, h("button", { class: "primary" }, "Create")),
      problem,
      h("button", { class: "plain", onclick: () => dialog.close() }, "Cancel"),
    );
    document.body.append(dialog);
    dialog.showModal();
    const that = this;
    let asking = new AbortController();
    find();

    async function find() {
      asking.abort();
      asking = new AbortController();
      const search = encodeURIComponent(finder.value.trim());
      try {
        const [people, channels] = await Promise.all([
          search ? get(`/api/users?search=${search}&limit=8`, asking.signal) : { users: [] },
          get(`/api/channels?limit=8${search ? `&search=${search}` : ""}`, asking.signal),
        ]);
        fill(
          found,
          people.users.filter((/** @type {any} */ one) => one.id !== that.me.id).map((/** @type {any} */ one) => h("li", {}, h("button", { class: "plain", onclick: () => begin({ kind: "direct", memberIds: [one.id] }) }, h("bdi", {}, `${one.name}${one.username ? ` @${one.username}` : ""}`)))),
          (channels.channels ?? channels.threads ?? []).map((/** @type {any} */ one) => h("li", {}, h("button", { class: "plain", onclick: () => enter(one.id) }, h("bdi", {}, `# ${one.title}`)))),
        );
      } catch (error) {
        if (!asking.signal.aborted) problem.textContent = words(error);
      }
    }
    /** @param {SubmitEvent} event */
    function make(event) {
      event.preventDefault();
      begin({ kind: kind.value, title: title.value });
    }
    /** @param {any} wanted */
    async function begin(wanted) {
      try {
        enter((await post("/api/threads", wanted)).thread.id);
      } catch (error) {
        problem.textContent = words(error);
      }
    }
    /** @param {number} id */
    function enter(id) {
      dialog.close();
      that.go(`/threads/${id}`);
    }
  }
}

// ---- the beginning -----------------------------------------------------------------------------

/** @type {Client | null} */
let client = null;

/** @param {any} me */
async function begin(me) {
  client = new Client(me);
  try {
    await client.start();
  } catch (error) {
    if (client) unreachable(error);
  }
}

/** @param {unknown} error */
function unreachable(error) {
  client?.close();
  fill(document.body, h("main", { class: "door" }, h("p", { role: "alert" }, words(error)), h("button", { class: "primary", onclick: () => location.reload() }, "Try again")));
}

session.ended = () => {
  client?.close();
  client = null;
  signIn(begin);
};

try {
  await begin((await call("GET", "/api/me")).user);
} catch (error) {
  if (error instanceof Refused && error.status === 401) signIn(begin);
  else unreachable(error);
}
