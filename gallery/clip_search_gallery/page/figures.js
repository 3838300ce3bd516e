// Whether the server is there, and its figures: asked now and then, and often while it is away.

import { status } from "./api.js";
import { $, bytes, count, counted, make } from "./dom.js";

const READY_MS = 5000;
const AWAY_MS = 1000;

export class Figures {
  /** `onReady()` is called each time the server is there again, `onFigures()` each time there are new figures. */
  constructor({ onReady, onFigures }) {
    this.onReady = onReady;
    this.onFigures = onFigures;
    this.latest = null;
    this.timer = null;
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    this.refresh();
  }

  get items() {
    return this.latest?.state === "ready" ? this.latest.items : null;
  }

  async refresh() {
    clearTimeout(this.timer);
    const before = this.latest?.state;
    try {
      this.latest = await status();
    } catch (problem) {
      this.latest = { state: "gateway", message: problem.message };
    }
    this.#show(this.latest);
    this.onFigures();
    const isReady = this.latest.state === "ready";
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), isReady ? READY_MS : AWAY_MS);
    if (isReady && before !== undefined && before !== "ready") this.onReady();
  }

  #show(figures) {
    const words = { starting: "starting", unreachable: "no server", failing: "trouble", gateway: "no answer" };
    $("status").dataset.state = figures.state;
    $("status-text").textContent = figures.state === "ready" ? counted(figures.items, "picture") : words[figures.state];
    $("status").setAttribute("aria-label", `${$("status-text").textContent}; figures of the collection`);
    const message = $("figures-message");
    message.hidden = !figures.message;
    message.textContent = figures.message ?? "";
    const rows = figures.state === "ready" ? ready(figures) : figures.server ? [["Server", figures.server]] : [];
    $("figures-list").replaceChildren(
      ...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))),
    );
  }
}

function ready(figures) {
  const recall = figures.recall
    ? `${(100 * figures.recall.share).toFixed(1)} % over ${counted(figures.recall.queries, "query", "queries")}`
    : "not measured yet";
  return [
    ["Name", figures.collection],
    ["Items", count(figures.items)],
    ["HNSW segments", count(figures.segments)],
    ["In the exact tail", count(figures.tail_rows)],
    ["Recall, estimated", recall],
    ["In memory", bytes(figures.memory_bytes)],
    ["On disk", bytes(figures.disk_bytes)],
    ["Model", figures.model ? `${figures.model.source || figures.model.name} (${figures.model.precision})` : "not loaded"],
    ["Server", `${figures.server}, version ${figures.version}`],
  ];
}
