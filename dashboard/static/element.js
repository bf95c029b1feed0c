// Building DOM nodes. Text always goes in as text, never as HTML: names and reasons come from users.

/** Return the element of this page with that id. */
export const byId = (id) => document.getElementById(id);

/** Return a new element. Attributes that are null or false are left out; functions become listeners. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set the text of a node, leaving it alone where it says so already: live regions then stay silent. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show `text` as the page's message, or hide the message when there is none. */
export function showMessage(node, text, isError = false) {
  node.hidden = !text;
  node.classList.toggle("error", isError);
  setText(node, text ?? "");
}
