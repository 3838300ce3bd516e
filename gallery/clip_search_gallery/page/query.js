// What is looked for, as a value, and as the page's address: the gateway takes the very same names.

export const EMPTY = Object.freeze({ q: "", image: [], like: [], not: [], unlike: [], filter: "", rank: "" });

const LISTS = ["image", "like", "not", "unlike"];
const TEXTS = ["q", "filter", "rank"];

/** Read an address's query; `shown` is the id of the item in the detail view, if it is open. */
export function readAddress(text) {
  const parameters = new URLSearchParams(text);
  const query = { ...EMPTY };
  for (const name of TEXTS) query[name] = parameters.get(name) ?? "";
  for (const name of LISTS) query[name] = parameters.getAll(name).filter((value) => value.trim());
  return { query, shown: parameters.get("show") ?? "" };
}

/** Give a query's parameters, always in one order, so that equal queries have equal texts. */
export function parametersOf(query) {
  const parameters = new URLSearchParams();
  const add = (name, value) => value.trim() && parameters.append(name, value.trim());
  add("q", query.q);
  for (const name of LISTS) query[name].forEach((value) => add(name, value));
  add("filter", query.filter);
  add("rank", query.rank);
  return parameters;
}

/** Give the address of a query, with an item's detail view open or not. */
export function addressOf(query, shown = "") {
  const parameters = parametersOf(query);
  if (shown) parameters.append("show", shown);
  const text = parameters.toString();
  return text ? `/?${text}` : "/";
}

/** Tell whether anything is looked for; without, pictures are listed. */
export const isSearch = (query) => Boolean(query.q.trim()) || LISTS.some((name) => query[name].length > 0);

export const same = (one, other) => parametersOf(one).toString() === parametersOf(other).toString();

/** Read what was typed into the "but not" field. */
export const readNots = (text) => text.split(",").map((part) => part.trim()).filter(Boolean);

export const writeNots = (nots) => nots.join(", ");
