// One item in full, in a dialog: its picture, what is known of it, and what to search for from here.

import { $, make } from "./dom.js";

export class Detail {
  /** `onStep(by)` asks for a neighbour, `onClose(item)` says that it was closed, the others act on the item. */
  constructor({ onStep, onClose, onLike, onAdd, onUnlike }) {
    this.dialog = $("detail");
    this.item = null;
    this.onClose = onClose;
    $("detail-close").addEventListener("click", () => this.dialog.close());
    $("detail-before").addEventListener("click", () => onStep(-1));
    $("detail-after").addEventListener("click", () => onStep(1));
    $("detail-like").addEventListener("click", () => onLike(this.item));
    $("detail-add").addEventListener("click", () => onAdd(this.item));
    $("detail-unlike").addEventListener("click", () => onUnlike(this.item));
    this.dialog.addEventListener("close", () => this.#closed());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft") onStep(-1);
      else if (event.key === "ArrowRight") onStep(1);
      else if (event.key.toLowerCase() === "m") onLike(this.item);
      else return;
      event.preventDefault();
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  show(item, { hasBefore = false, hasAfter = false } = {}) {
    this.item = item;
    $("detail-title").textContent = item.title;
    const hasScore = typeof item.score === "number";
    $("detail-score").textContent = hasScore ? `score ${item.score.toFixed(3)}` : "";
    $("detail-before").hidden = !hasBefore;
    $("detail-after").hidden = !hasAfter;
    $("detail-open").href = item.whole;
    $("detail-facts").replaceChildren(...facts(item));
    this.#showPicture(item);
    if (!this.dialog.open) this.dialog.showModal();
    if (document.activeElement?.hidden) $("detail-like").focus();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  #showPicture(item) {
    const picture = $("detail-picture");
    const missing = $("detail-missing");
    missing.hidden = true;
    picture.hidden = false;
    picture.alt = item.title;
    picture.src = item.small; // there at once; the whole one follows
    const whole = new Image();
    whole.onload = () => {
      if (this.item === item) picture.src = whole.src;
    };
    whole.onerror = () => {
      if (this.item === item) [picture.hidden, missing.hidden] = [true, false];
    };
    whole.src = item.whole;
  }

  #closed() {
    const { item } = this;
    this.item = null;
    $("detail-picture").removeAttribute("src");
    this.onClose(item);
  }
}

function facts(item) {
  const rows = [["id", item.id], ...(item.text ? [["text", item.text]] : []), ...Object.entries(item.attributes)];
  return rows.map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: Array.isArray(value) ? value.join(", ") : String(value) })),
  );
}
