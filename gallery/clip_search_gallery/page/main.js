// The page: joins the fields, the address, the gateway and the pictures.

import * as api from "./api.js";
import { Detail } from "./detail.js";
import { $, count, counted, debounced, icon, make } from "./dom.js";
import { Figures } from "./figures.js";
import { Grid } from "./grid.js";
import { watchPictures } from "./pictures.js";
import { EMPTY, addressOf, isSearch, parametersOf, readAddress, readNots, same, writeNots } from "./query.js";

const TYPING_PAUSE_MS = 120;
const MISTAKE_PAUSE_MS = 600; // half a filter is no mistake yet
const RETRY_MS_MAX = 10_000;

let query = { ...EMPTY };
let next = ""; // where the next page begins
let running = null; // the search under way
let isLoadingMore = false;
let isTyping = false; // the newest entry of the history is still being typed
let retryTimer = null;
let mistakeTimer = null;
const chipItems = new Map(); // what is known of items that take part in the search

const words = $("words");
const grid = new Grid($("grid"), { onOpen: (index) => show(index), onLike: (index) => like(grid.items[index]), onLeave: () => words.focus() });
const detail = new Detail({
  onStep: (by) => step(by),
  onClose: (item) => closed(item),
  onLike: (item) => like(item),
  onAdd: (item) => change({ like: added(query.like, item.id) }, item),
  onUnlike: (item) => change({ unlike: added(query.unlike, item.id) }, item),
});
const figures = new Figures({ onReady: () => search(), onFigures: () => followFigures() });

const added = (list, value) => (list.includes(value) ? list : [...list, value]);

// ── Searching ──────────────────────────────────────────────────────────────────────────────────────────────────────

async function search() {
  running?.abort();
  clearTimeout(retryTimer);
  running = new AbortController();
  const { signal } = running;
  const asked = { ...query };
  const parameters = parametersOf(asked).toString();
  if (grid.items.length === 0) wait();
  $("grid").classList.add("outdated");
  try {
    const answer = await api.search(parameters, signal);
    if (signal.aborted) return;
    present(asked, answer);
    $("grid").dataset.answers = parameters;
  } catch (problem) {
    if (problem.name !== "AbortError" && !signal.aborted) fail(problem);
  } finally {
    if (!signal.aborted) $("grid").classList.remove("outdated");
  }
}

async function loadMore() {
  if (isLoadingMore || !next || !running || $("grid").classList.contains("outdated")) return;
  const { signal } = running;
  isLoadingMore = true;
  try {
    const parameters = parametersOf(query);
    parameters.append("cursor", next);
    const answer = await api.search(parameters, signal);
    if (signal.aborted) return;
    grid.append(answer.items);
    setNext(answer.next);
    summarize(query);
  } catch (problem) {
    if (problem.name !== "AbortError" && !signal.aborted) setNext("");
  } finally {
    isLoadingMore = false;
  }
}

function present(asked, answer) {
  grid.show(answer.items);
  setNext(answer.next);
  setFilterError(null);
  setState(answer.items.length > 0 ? null : nothing(asked));
  summarize(asked, answer.search_ms);
  suggestAttributes(answer.items);
  answer.items.forEach((item) => chipItems.has(item.id) && chipItems.set(item.id, item));
}

const nearEnd = new IntersectionObserver((entries) => entries.some((each) => each.isIntersecting) && loadMore(), {
  rootMargin: "1200px 0px",
});

/** Keep up with a collection that grows or shrinks while all of it is shown. */
function followFigures() {
  const isWhole = !isSearch(query) && !query.filter.trim();
  if (!isWhole || figures.items === null || $("grid").dataset.answers !== "") return;
  if (!next && figures.items !== grid.items.length) search();
  else if (grid.items.length > 0) summarize(query);
  else setState(nothing(query));
}

function setNext(cursor) {
  next = cursor;
  $("more").hidden = !cursor;
  nearEnd.unobserve($("more")); // observed afresh, it is told at once if the end is still near
  if (cursor) setTimeout(() => nearEnd.observe($("more")));
}

function wait() {
  setState(null);
  setNext("");
  grid.wait();
}

function summarize(asked, search_ms) {
  const shown = grid.items.length;
  const all = figures.items;
  let text;
  if (shown === 0) text = "Nothing found";
  else if (isSearch(asked)) text = `${next ? "Best " : ""}${counted(shown, "picture")}`;
  else if (asked.filter.trim()) text = next ? `${count(shown)} pictures and more` : counted(shown, "picture");
  else text = all === null ? "All pictures" : `All ${counted(all, "picture")}`;
  if ($("summary").textContent !== text) $("summary").textContent = text;
  if (search_ms !== undefined) $("timing").textContent = `found in ${search_ms < 10 ? search_ms.toFixed(1) : Math.round(search_ms)} ms`;
  else if (!isSearch(asked)) $("timing").textContent = "";
}

function suggestAttributes(items) {
  const names = new Set(items.slice(0, 100).flatMap((item) => Object.keys(item.attributes)));
  const shown = [...names].sort().slice(0, 12);
  $("filter-hint").textContent = shown.length > 0
    ? `Attributes here: ${shown.join(", ")}. Compare with = != < >= in (…) exists; join with and, or, not.`
    : "Conditions on attributes: = != < >= in (…) exists; join with and, or, not.";
}

// ── What there is instead of pictures ──────────────────────────────────────────────────────────────────────────────

function nothing(asked) {
  if (asked.filter.trim()) {
    return {
      title: "No picture matches the filter",
      text: "Nothing in this collection has these attributes.",
      action: ["Remove the filter", () => change({ filter: "" })],
    };
  }
  if (asked.rank === "text") {
    return {
      title: "No picture has these words with it",
      text: "Ordered by words, only pictures stored with a text can be found.",
      action: ["Order by picture", () => change({ rank: "" })],
    };
  }
  return {
    title: "There are no pictures here yet",
    text: "Add a folder of them at the terminal; they show up as they come.",
    code: `search_client --server ${figures.latest?.server ?? "localhost:50051"} index ~/Pictures`,
  };
}

function fail(problem) {
  setFilterError(problem.code === "FILTER" ? problem : null);
  if (problem.code === "FILTER") return; // the pictures from before stay
  grid.show([]);
  setNext("");
  $("timing").textContent = "";
  const again = ["Try again", () => search()];
  const startAnew = ["Start anew", () => change({ ...EMPTY })];
  const seconds = problem.facts.retry_after_seconds;
  if (problem.code === "GATEWAY") {
    setState({ title: "This page has lost its program", text: `${problem.message} Start it again, and the page goes on by itself.`, code: "clip-search gallery" });
  } else if (problem.code === "UNAVAILABLE" && problem.facts.unreachable) {
    setState({ title: "The server is not running", text: "Start it, and the page goes on by itself.", code: "clip-search serve --bundle BUNDLE --data DIR --thumbnails" });
  } else if (problem.code === "UNAVAILABLE") {
    setState({ title: "The server is starting", text: "The pictures come as soon as it is ready.", busy: true });
  } else if (problem.code === "RESOURCE_EXHAUSTED") {
    setState({ title: "The server is busy", text: problem.message, action: again });
    retryTimer = setTimeout(search, Math.min(RETRY_MS_MAX, 1000 * (seconds ?? 1)));
  } else if (problem.code === "UPLOAD_GONE") {
    setState({ title: "That picture is no longer here", text: "Pictures to search by are kept for a while only. Choose it once more.", action: ["Choose a picture", () => $("choose").click()] });
  } else if (problem.code === "NOT_FOUND") {
    setState({ title: "That is not there", text: problem.message, action: startAnew });
  } else {
    setState({ title: "This cannot be searched for", text: problem.message, action: isSearch(query) ? startAnew : again });
  }
  $("summary").textContent = $("state-title").textContent;
  if (["GATEWAY", "UNAVAILABLE"].includes(problem.code)) figures.refresh();
}

function setState(state) {
  const box = $("state");
  box.hidden = !state;
  $("results").classList.toggle("without", Boolean(state));
  if (!state) return;
  box.classList.toggle("busy", Boolean(state.busy));
  $("state-title").textContent = state.title;
  $("state-text").textContent = state.text;
  $("state-code").hidden = !state.code;
  $("state-code").textContent = state.code ?? "";
  const button = $("state-action");
  button.hidden = !state.action;
  [button.textContent, button.onclick] = state.action ?? ["", null];
}

function setFilterError(problem) {
  clearTimeout(mistakeTimer);
  if (problem && $("filter-error").hidden && document.activeElement === $("filter")) {
    mistakeTimer = setTimeout(showFilterError, MISTAKE_PAUSE_MS, problem);
  } else showFilterError(problem);
}

function showFilterError(problem) {
  $("filter").setAttribute("aria-invalid", String(Boolean(problem)));
  $("filter-error").hidden = !problem;
  if (!problem) return;
  const { text, position, description } = problem.facts;
  $("filter-place").textContent = `${text.replace(/\s/g, " ")}\n${" ".repeat(position)}^`;
  $("filter-message").textContent = description;
  openRow("filter", true);
}

// ── The query, its fields and its address ──────────────────────────────────────────────────────────────────────────

/** Change the query for good: a new entry in the history. */
function change(changes, item) {
  if (item) chipItems.set(item.id, item);
  const wanted = { ...query, ...changes };
  detail.close();
  if (same(wanted, query)) return;
  typed.cancel();
  isTyping = false;
  query = wanted;
  history.pushState(null, "", addressOf(query));
  showFields();
  scrollTo({ top: 0 });
  search();
}

/** Take over what is typed, which stays one entry of the history until it is finished. */
function readFields() {
  const wanted = { ...query, q: words.value, not: readNots($("not").value), filter: $("filter").value, rank: $("rank").value };
  if (same(wanted, query)) return;
  query = wanted;
  history[isTyping ? "replaceState" : "pushState"](null, "", addressOf(query));
  isTyping = true;
  showChips();
  scrollTo({ top: 0 });
  search();
}

const typed = debounced(readFields, TYPING_PAUSE_MS);

function showFields() {
  words.value = query.q;
  $("not").value = writeNots(query.not);
  $("filter").value = query.filter;
  $("rank").value = ["text", "fused"].includes(query.rank) ? query.rank : "";
  if (query.not.length > 0) openRow("not", true);
  if (query.filter) openRow("filter", true);
  if (!query.filter) setFilterError(null);
  showChips();
}

function showChips() {
  const chips = [
    ...query.image.map((key) => chip("image", key, api.uploadAddress(key), "the picture you gave")),
    ...query.like.map((id) => itemChip("like", id)),
    ...query.unlike.map((id) => itemChip("unlike", id)),
  ];
  $("chips").replaceChildren(...chips);
  $("clear").hidden = !isSearch(query) && !words.value;
  const onlyWords = chips.length === 0;
  $("rank").disabled = !onlyWords;
  words.placeholder = onlyWords ? "Describe a picture" : "and …";
  document.title = query.q.trim() ? `${query.q.trim()} – clip-search` : "clip-search";
}

function itemChip(kind, id) {
  const item = chipItems.get(id);
  if (!item) {
    api.item(id).then((found) => {
      chipItems.set(id, found);
      showChips();
    }, () => {}); // the search itself tells what is wrong
  }
  return chip(kind, id, item?.small, item?.title ?? id);
}

function chip(kind, value, address, title) {
  const says = kind === "unlike" ? `not like ${title}` : `like ${title}`;
  const remove = make("button", { class: "chip", type: "button", title: says, "aria-label": `Remove: ${says}` });
  if (address) {
    const picture = make("img", { alt: "", src: address });
    picture.addEventListener("error", () => picture.replaceWith(icon("picture")), { once: true });
    remove.append(picture);
  } else remove.append(icon("picture"));
  remove.append(icon("close"));
  remove.addEventListener("click", () => {
    change({ [kind]: query[kind].filter((each) => each !== value) });
    words.focus();
  });
  return make("li", { class: kind === "unlike" ? "against" : "" }, remove);
}

function openRow(name, isOpen) {
  $(`${name}-row`).hidden = !isOpen;
  $(`${name}-toggle`).setAttribute("aria-expanded", String(isOpen));
}

for (const name of ["not", "filter"]) {
  $(`${name}-toggle`).addEventListener("click", () => {
    const isOpen = $(`${name}-row`).hidden;
    openRow(name, isOpen);
    if (isOpen) $(name).focus();
    else change({ [name]: name === "not" ? [] : "" });
  });
  $(name).addEventListener("input", typed);
}
words.addEventListener("input", () => {
  $("clear").hidden = !isSearch(query) && !words.value;
  typed();
});
$("rank").addEventListener("change", () => change({ rank: $("rank").value }));
for (const field of [words, $("not"), $("filter")]) field.addEventListener("blur", () => (isTyping = false));
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  typed.now();
  isTyping = false;
});
$("clear").addEventListener("click", () => {
  change({ ...EMPTY, filter: query.filter });
  showFields();
  words.focus();
});
document.querySelector(".brand").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  change({ ...EMPTY });
  openRow("not", false);
  openRow("filter", false);
});

addEventListener("popstate", () => restore());

/** Show what the address says. */
async function restore() {
  const address = readAddress(location.search);
  typed.cancel();
  isTyping = false;
  const isOther = !same(address.query, query) || $("grid").dataset.answers === undefined;
  query = address.query;
  showFields();
  if (!address.shown) detail.close();
  if (isOther) search();
  if (address.shown && detail.item?.id !== address.shown) {
    const known = grid.items.findIndex((each) => each.id === address.shown);
    if (known >= 0 && !isOther) present_detail(known);
    else await api.item(address.shown).then((item) => detail.show(item), () => history.replaceState(null, "", addressOf(query)));
  }
}

// ── One picture ────────────────────────────────────────────────────────────────────────────────────────────────────

const like = (item) => change({ ...EMPTY, filter: query.filter, like: [item.id] }, item);

function present_detail(index) {
  detail.show(grid.items[index], { hasBefore: index > 0, hasAfter: index + 1 < grid.items.length });
}

function show(index) {
  isTyping = false;
  history.pushState({ opened: true }, "", addressOf(query, grid.items[index].id));
  present_detail(index);
}

function step(by) {
  const index = grid.items.findIndex((each) => each.id === detail.item?.id);
  const wanted = index + by;
  if (index < 0 || !grid.items[wanted]) return;
  history.replaceState(history.state, "", addressOf(query, grid.items[wanted].id));
  present_detail(wanted);
  if (wanted + grid.columns >= grid.items.length) loadMore();
}

function closed(item) {
  const index = grid.items.findIndex((each) => each.id === item.id);
  if (!readAddress(location.search).shown) return; // closed by the back button, or for another search
  if (history.state?.opened) history.back();
  else history.replaceState(null, "", addressOf(query));
  if (index >= 0) grid.focus(index); // the dialog gives the focus back to where it was opened
}

// ── Pictures to search by, keys, scrolling ─────────────────────────────────────────────────────────────────────────

watchPictures(async (file) => {
  detail.close();
  $("choose").classList.add("busy");
  try {
    const key = await api.upload(file);
    change({ ...EMPTY, filter: query.filter, image: [key] });
  } catch (problem) {
    fail(problem);
  } finally {
    $("choose").classList.remove("busy");
  }
});

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || detail.isOpen) return;
  const isInField = event.target.closest?.("input, select, textarea");
  if (event.key === "/" && !isInField) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if (event.key === "ArrowDown" && event.target === words && grid.items.length > 0) {
    event.preventDefault();
    grid.focus(0);
  } else if (event.key === "Escape" && event.target === words && (words.value || isSearch(query))) {
    event.preventDefault();
    $("clear").click();
  } else if (event.key === "Escape" && event.target.closest?.("#grid")) {
    words.focus();
  }
});

$("more").addEventListener("click", loadMore);

restore();
