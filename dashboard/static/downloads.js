// Getting a merge: the command to copy and the list of its files.

import { getJson, request, token } from "./api.js";
import { element } from "./element.js";
import { count, size } from "./format.js";

/** Return a closed <details> with the pull command and, once opened, the files of the trial's checkpoint. */
export function getPanel(trialId) {
  const files = element("div", {}, element("p", { class: "quiet" }, "Loading the files …"));
  const summary = element("summary", { "aria-label": `Get ${trialId}` }, "Get");
  const panel = element("details", { class: "get" }, summary, pullCommand(trialId), files);
  panel.addEventListener("toggle", () => panel.open && fill(files, trialId));
  return panel;
}

/** Return the command line that fetches the whole checkpoint, with a button that copies it. */
export function pullCommand(trialId) {
  const command = `mergefront pull ${trialId} ./${trialId}`;
  const copy = element("button", { type: "button", "aria-label": `Copy: ${command}` }, "Copy");
  const code = element("code", {}, command);
  copy.addEventListener("click", async () => {
    copy.textContent = (await toClipboard(command, code)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  return element("div", { class: "command" }, code, copy);
}

/** Copy, or select the text where the browser lends no clipboard (plain HTTP from another machine). */
async function toClipboard(text, node) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return false;
  }
}

async function fill(node, trialId) {
  if (node.dataset.loaded) return;
  try {
    const { files } = await getJson(`/v1/checkpoints/${encodeURIComponent(trialId)}`);
    const bytes = files.reduce((sum, file) => sum + file.size_bytes, 0);
    const items = files.map((file) => element("li", {}, link(file), ` ${size(file.size_bytes)}`));
    node.replaceChildren(
      element("p", { class: "quiet" }, `${count(files.length, "file")}, ${size(bytes)}; merged as they are read.`),
      element("ul", {}, ...items),
    );
    node.dataset.loaded = "yes";
  } catch (error) {
    node.replaceChildren(
      element(
        "p",
        { class: "message error", role: "alert" },
        `No files: ${error.message}. Close and open to try again.`,
      ),
    );
  }
}

/** A plain link; with a token, which links cannot send, the file is fetched and then handed over. */
function link(file) {
  const saveWithToken = async (event) => {
    if (!token()) return;
    event.preventDefault();
    const address = URL.createObjectURL(await (await request(file.url)).blob());
    element("a", { href: address, download: file.name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  return element("a", { href: file.url, download: file.name, click: saveWithToken }, file.name);
}
