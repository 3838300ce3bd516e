// The pictures: tiles in a grid, one of which can be reached with Tab; arrows move from there. Knows nothing of searching.

import { icon, make } from "./dom.js";

const SKELETONS = 18;

export class Grid {
  /** `onOpen(index)` and `onLike(index)` are called with the place of a tile. */
  constructor(list, { onOpen, onLike, onLeave }) {
    this.list = list;
    this.items = [];
    this.current = 0;
    this.onOpen = onOpen;
    this.onLike = onLike;
    this.onLeave = onLeave;
    list.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("focusin", (event) => {
      const index = this.#indexOf(event.target);
      if (index >= 0) this.#makeCurrent(index);
    });
  }

  /** Replace everything. */
  show(items) {
    this.items = [];
    this.current = 0;
    this.list.replaceChildren();
    this.list.removeAttribute("aria-busy");
    this.append(items);
  }

  /** Add the items that are not there already: with writes in between, a page may begin with what the last one ended. */
  append(items) {
    const known = new Set(this.items.map((each) => each.id));
    const fresh = items.filter((each) => !known.has(each.id));
    this.list.append(...fresh.map((each, place) => this.#tile(each, this.items.length + place)));
    this.items.push(...fresh);
  }

  /** Show empty boxes until there is something. */
  wait() {
    this.items = [];
    this.list.setAttribute("aria-busy", "true");
    const boxes = Array.from({ length: SKELETONS }, () =>
      make("li", { class: "tile skeleton", "aria-hidden": "true" }, make("div", { class: "frame" }), make("div", { class: "line" })),
    );
    this.list.replaceChildren(...boxes);
  }

  /** Move the focus to a tile. */
  focus(index = this.current) {
    this.#buttons()[index]?.focus();
  }

  #tile(item, index) {
    const picture = make("img", { alt: "", loading: index < 12 ? "eager" : "lazy", decoding: "async", draggable: true });
    const frame = make("span", { class: "frame" }, picture);
    picture.addEventListener("load", () => frame.classList.add("loaded"), { once: true });
    picture.addEventListener("error", () => frame.classList.add("missing"), { once: true });
    picture.src = item.small;
    const caption = make("span", { class: "caption" }, make("span", { class: "title", textContent: item.title, title: item.id }));
    const hasScore = typeof item.score === "number";
    if (hasScore) caption.append(make("span", { class: "score", textContent: item.score.toFixed(3) }));
    const label = hasScore ? `${item.title}, score ${item.score.toFixed(3)}` : item.title;
    const open = make("button", { class: "open", type: "button", tabIndex: index === this.current ? 0 : -1, "aria-label": label }, frame, caption);
    open.addEventListener("click", () => this.onOpen(index));
    const like = make("button", { class: "round quick", type: "button", tabIndex: -1, title: "More like this (M)", "aria-label": `More like ${item.title}` }, icon("like"));
    like.addEventListener("click", () => this.onLike(index));
    return make("li", { class: "tile", data: { id: item.id } }, open, like);
  }

  #buttons() {
    return this.list.querySelectorAll("button.open");
  }

  #indexOf(element) {
    const tile = element.closest?.("li.tile");
    return tile ? Array.prototype.indexOf.call(this.list.children, tile) : -1;
  }

  #makeCurrent(index) {
    const buttons = this.#buttons();
    if (buttons[this.current]) buttons[this.current].tabIndex = -1;
    if (buttons[index]) buttons[index].tabIndex = 0;
    this.current = index;
  }

  get columns() {
    return getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.items.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    let target = this.current + (steps[event.key] ?? 0);
    if (event.key === "Home") target = 0;
    else if (event.key === "End") target = last;
    else if (event.key.toLowerCase() === "m") {
      event.preventDefault();
      this.onLike(this.current);
      return;
    } else if (!(event.key in steps)) return;
    event.preventDefault();
    if (event.key === "ArrowUp" && target < 0) this.onLeave();
    else this.focus(Math.max(0, Math.min(last, target)));
  }
}
