// Making elements. Text is only ever text: nothing here, or anywhere else, parses HTML.

/** @typedef {Node | string | null | undefined | false} Child */

/**
 * An element: h("button", {class: "send", onclick: send}, "Send"). A property that begins with "on" is a listener;
 * true is an attribute without a value, false and null none.
 * @param {string} name
 * @param {Record<string, any>} [properties]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") /** @type {any} */ (element).value = value;
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Puts these in the place of all children.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child || child === "").map((child) => child ?? ""));
}

const LINK = /https?:\/\/[^\s<>"']+[^\s<>"'.,:;!?)\]}]/g;

/**
 * A text as nodes: what looks like a link is one, all else is text.
 * @param {string} text
 * @returns {(string | Element)[]}
 */
export function linked(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(LINK)) {
    found.push(text.slice(at, match.index));
    found.push(h("a", { href: match[0], target: "_blank", rel: "noopener noreferrer nofollow" }, match[0]));
    at = match.index + match[0].length;
  }
  found.push(text.slice(at));
  return found.filter((part) => part !== "");
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const SHORT = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** @param {string} time */
export const clock = (time) => CLOCK.format(new Date(time));
/** @param {string} time */
export const day = (time) => DAY.format(new Date(time));
/** The time of today, the day of all else. @param {string | null} time */
export function when(time) {
  if (!time) return "";
  const date = new Date(time);
  return date.toDateString() === new Date().toDateString() ? CLOCK.format(date) : SHORT.format(date);
}
