// Blending, and enlarging: a figure is copied into the dialog, which shows one of its panels.
const dialog = document.querySelector("dialog");

function show(panels, number) {
  panels.forEach((panel, i) => panel.classList.toggle("shown", i === number));
  panels[number].focus();
}

document.addEventListener("click", ({ target }) => {
  const panel = target.closest(".panel");
  if (!panel) return;
  const figure = panel.closest("figure");
  const number = [...figure.querySelectorAll(".panel")].indexOf(panel);
  if (dialog.open) {
    const panels = figure.querySelectorAll(".panel");
    return show(panels, (number + 1) % panels.length);
  }
  const copy = figure.cloneNode(true);
  const slider = document.querySelector(".blend")?.cloneNode(true);
  dialog.querySelector("div").replaceChildren(...(slider ? [slider, copy] : [copy]));
  dialog.showModal();
  show(copy.querySelectorAll(".panel"), number);
});

document.addEventListener("input", ({ target }) => {
  document.documentElement.style.setProperty("--blend", target.value);
  for (const slider of document.querySelectorAll(".blend input")) slider.value = target.value;
});
