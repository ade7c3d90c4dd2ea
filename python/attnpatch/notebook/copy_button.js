// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0
// A button that puts `text` on the clipboard, and says whether it is there.
function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "jupyter-button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("text"));
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here: select the text below";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  el.append(button);
}
export default { render };
