// Asks the gateway. Whatever goes wrong is a Problem, with the gateway's code and sentence.

export class Problem extends Error {
  constructor(code, message, facts = {}) {
    super(message);
    this.code = code;
    this.facts = facts;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("GATEWAY", "The program behind this page does not answer.");
  }
  let document;
  try {
    document = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("GATEWAY", `The program behind this page gave an answer that makes no sense (${response.status}).`);
  }
  if (response.ok) return document;
  const { code = "HTTP", message = response.statusText, ...facts } = document.error ?? {};
  throw new Problem(code, message, facts);
}

/** Give a page of hits: { items, next, search_ms? }. */
export const search = (parameters, signal) => ask(`/api/search?${parameters}`, { signal });

export const item = (id) => ask(`/api/item?id=${encodeURIComponent(id)}`);

export const status = () => ask("/api/status");

/** Send a picture and give the key that stands for it. */
export const upload = async (file) => (await ask("/api/uploads", { method: "POST", body: file })).image;

export const uploadAddress = (key) => `/api/uploads/${encodeURIComponent(key)}`;
