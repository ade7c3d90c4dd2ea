// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0
// A picture that one paints on: what is painted goes to `levels`, one byte a cell, row by row.
function render({ model, el }) {
  const side = model.get("side");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "mask: paint where the patch acts");
  Object.assign(canvas.style, {
    width: "100%", maxWidth: "256px", aspectRatio: "1", cursor: "crosshair", touchAction: "none",
    border: "1px solid var(--jp-border-color2, #999)", borderRadius: "4px", display: "block",
    background: "#777 center / 100% 100% no-repeat", imageRendering: "pixelated",
  });
  const tools = document.createElement("div");
  Object.assign(tools.style, { display: "flex", gap: "8px", margin: "4px 0", alignItems: "center" });
  const erase = document.createElement("input");
  erase.type = "checkbox";
  const label = document.createElement("label");
  label.append(erase, " erase");
  const size = document.createElement("input");
  Object.assign(size, { type: "range", min: 1, max: 32, value: 10, title: "brush" });
  size.setAttribute("aria-label", "brush");
  size.style.width = "90px";
  const clear = document.createElement("button");
  clear.textContent = "clear";
  tools.append(label, size, clear);
  el.append(canvas, tools);

  const paint = canvas.getContext("2d");
  const levels = new Uint8Array(side * side);
  const draw = () => {
    const image = paint.createImageData(side, side);
    levels.forEach((level, at) => image.data.set([255, 149, 0, level * 0.6], 4 * at));
    paint.putImageData(image, 0, 0);
  };
  const read = () => {
    const held = model.get("levels");
    if (held?.byteLength === levels.length) {
      levels.set(new Uint8Array(held.buffer, held.byteOffset, held.byteLength));
    }
    draw();
  };
  const under = () => {
    const picture = model.get("picture");
    canvas.style.backgroundImage = picture ? `url("${picture}")` : "none";
  };
  const send = () => {
    model.set("levels", new DataView(levels.slice().buffer));
    model.save_changes();
  };
  let last = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * side, (event.clientY - box.top) / box.height * side];
  };
  const stroke = (event) => {
    const [x, y] = place(event);
    const [x0, y0] = last ?? [x, y];
    const radius = size.value / 2;
    const far = (x - x0) ** 2 + (y - y0) ** 2;
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const dx = column + 0.5 - x0, dy = row + 0.5 - y0;
        const along = far ? Math.min(1, Math.max(0, (dx * (x - x0) + dy * (y - y0)) / far)) : 0;
        if (Math.hypot(dx - along * (x - x0), dy - along * (y - y0)) <= radius) {
          levels[row * side + column] = erase.checked ? 0 : 255;
        }
      }
    }
    last = [x, y];
    draw();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => last && stroke(event));
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (last) {
        last = null;
        send();
      }
    });
  }
  clear.addEventListener("click", () => {
    levels.fill(0);
    draw();
    send();
  });
  model.on("change:picture", under);
  model.on("change:levels", read);
  under();
  read();
}
export default { render };
