for (const gallery of document.querySelectorAll(".gallery")) {
  const cards = [...gallery.querySelectorAll(".card")];
  const views = [...gallery.querySelectorAll(".views button")];
  const classes = [...gallery.querySelectorAll(".legend button")];
  const found = gallery.querySelector(".found");
  const pressed = (buttons) => buttons.find((button) => button.ariaPressed === "true");
  const press = (buttons, chosen) => buttons.forEach((button) => { button.ariaPressed = String(button === chosen); });

  // Shows the layers of a view in a pane; the layers above the first one let it shine through.
  function show(pane, view) {
    const layers = view.dataset.layers.split(" ");
    for (const layer of pane.querySelectorAll(".layer")) {
      layer.toggleAttribute("hidden", !layers.includes(layer.dataset.layer));
      layer.style.opacity = layer.dataset.layer === layers[0] || layer.tagName === "svg" ? 1 : view.dataset.opacity;
    }
  }

  // One pane per view side by side, or a single pane; a view whose own layer a card lacks is left out.
  function arrange() {
    const chosen = pressed(views);
    if (!chosen) return;
    const all = "all" in chosen.dataset;
    gallery.classList.toggle("side", all);
    for (const card of cards) {
      const panes = card.querySelector(".panes");
      [...panes.children].slice(1).forEach((pane) => pane.remove());
      const first = panes.firstElementChild;
      first.querySelector("small")?.remove();
      if (!all) { show(first, chosen); continue; }
      const usable = views.filter((view) => view.dataset.layers && first.querySelector(`[data-layer="${view.dataset.layers.split(" ").at(-1)}"]`));
      usable.forEach((view, i) => {
        const pane = i ? panes.appendChild(first.cloneNode(true)) : first;
        pane.querySelector("small")?.remove();
        show(pane, view);
        pane.appendChild(document.createElement("small")).textContent = view.textContent;
      });
    }
  }

  // A copy of a painted mask in which all pixels but those of one colour are transparent.
  async function only(source, colour) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      if (colour.some((value, channel) => pixels.data[i + channel] !== value)) pixels.data[i + 3] = 0;
    }
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL();
  }

  async function highlight() {
    const chosen = pressed(classes);
    const name = chosen?.dataset.name;
    const colour = chosen?.dataset.colour.split(",").map(Number);
    const having = cards.filter((card) => !chosen || JSON.parse(card.dataset.names).includes(name));
    if (found) found.textContent = chosen ? `${having.length} of ${cards.length} pictures show ${name}` : "";
    cards.forEach((card) => card.classList.toggle("absent", !having.includes(card)));
    gallery.querySelectorAll(".pane g").forEach((box) => box.classList.toggle("off", Boolean(chosen) && box.dataset.name !== name));
    const masks = gallery.querySelectorAll("img.layer:not([data-layer=picture]):not([data-layer=map])");
    await Promise.all([...masks].map(async (mask) => {
      mask.dataset.whole ??= mask.src;
      const whole = mask.dataset.whole;
      const source = chosen ? await only(whole, colour) : whole;
      if (pressed(classes) === chosen) mask.src = source;
    }));
    gallery.dataset.highlighted = name ?? "";
  }

  views.forEach((view) => view.addEventListener("click", () => { press(views, view); arrange(); }));
  classes.forEach((button) => button.addEventListener("click", () => {
    press(classes, pressed(classes) === button ? undefined : button);
    highlight();
  }));
}
