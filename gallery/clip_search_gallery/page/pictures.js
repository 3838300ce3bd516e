// Pictures that a person drops, pastes or chooses. Knows nothing of what is done with them.

import { $ } from "./dom.js";

const isFiles = (transfer) => Boolean(transfer) && Array.from(transfer.types).includes("Files");

const firstPicture = (files) => {
  const list = Array.from(files ?? []);
  return list.find((file) => file.type.startsWith("image/")) ?? list[0];
};

/** Call `onPicture(file)` with each picture. */
export function watchPictures(onPicture) {
  const overlay = $("drop");
  let depth = 0; // dragenter and dragleave come for every element on the way
  const show = (is) => {
    overlay.hidden = !is;
    if (!is) depth = 0;
  };
  addEventListener("dragenter", (event) => {
    if (!isFiles(event.dataTransfer)) return;
    event.preventDefault();
    depth += 1;
    show(true);
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) show(false);
  });
  addEventListener("dragover", (event) => {
    if (!isFiles(event.dataTransfer)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", (event) => {
    if (!isFiles(event.dataTransfer)) return;
    event.preventDefault();
    show(false);
    const file = firstPicture(event.dataTransfer.files);
    if (file) onPicture(file);
  });
  addEventListener("paste", (event) => {
    const file = firstPicture(event.clipboardData?.files);
    if (!file) return;
    event.preventDefault();
    onPicture(file);
  });
  const input = $("file");
  $("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const file = firstPicture(input.files);
    input.value = ""; // so that the same file can be chosen again
    if (file) onPicture(file);
  });
}
