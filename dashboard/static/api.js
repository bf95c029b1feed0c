// The JSON API: requests with the token, errors as they are meant to be read.

const TOKEN_KEY = "mergefront-token";
let asking = null;

/** What the API answered instead of data; `message` is its problem+json in one line. */
export class ApiError extends Error {
  constructor(status, problem) {
    const fields = (problem.errors ?? []).map((error) => `${error.field}: ${error.message}`);
    super([problem.title ?? `HTTP ${status}`, problem.detail, ...fields].filter(Boolean).join(" – "));
    this.status = status;
  }
}

export const token = () => sessionStorage.getItem(TOKEN_KEY);

/** Fetch with the token. Asks for one on 401 and tries again; throws `ApiError` on any other error status. */
export async function request(path, options = {}) {
  const used = token();
  const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    if (used === token()) sessionStorage.removeItem(TOKEN_KEY);
    if (!token()) await askForToken(Boolean(used));
    return request(path, options);
  }
  if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
  return response;
}

export const getJson = async (path) => (await request(path)).json();
export const post = async (path) => (await request(path, { method: "POST" })).json();

/** Show the token dialog, once however many requests wait for it. */
function askForToken(wasRefused) {
  asking ??= new Promise((resolve) => {
    const dialog = tokenDialog(wasRefused);
    document.body.append(dialog);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN_KEY, dialog.querySelector("input").value.trim());
      dialog.remove();
      asking = null;
      resolve();
    });
    dialog.showModal();
  });
  return asking;
}

function tokenDialog(wasRefused) {
  const dialog = document.createElement("dialog");
  dialog.innerHTML = `
    <form method="dialog">
      <h2>This service asks for a token</h2>
      <p>It is the MERGEFRONT_TOKEN that the service was started with. It is kept until this tab is closed.</p>
      <label>Token <input type="password" required autocomplete="off" autofocus></label>
      <p class="message error" role="alert" hidden>That token was refused.</p>
      <button>Continue</button>
    </form>`;
  dialog.querySelector("[role=alert]").hidden = !wasRefused;
  return dialog;
}
