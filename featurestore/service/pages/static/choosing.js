// Says how many runs are chosen, and holds a comparison to what a page can show.
"use strict";

const form = document.querySelector(".choosing");
if (form) {
  const most = Number(form.dataset.most);
  const said = form.querySelector("[data-chosen]");
  const button = form.querySelector("button");
  const update = () => {
    const chosen = form.querySelectorAll("input[name=run]:checked").length;
    button.disabled = chosen === 0 || chosen > most;
    if (chosen === 0) said.textContent = "Choose two or more runs to compare them.";
    else if (chosen > most) said.textContent = `${chosen} runs chosen; a page compares up to ${most}.`;
    else said.textContent = `${chosen} run${chosen === 1 ? "" : "s"} chosen${chosen === 1 ? ": it is held against chance." : "."}`;
  };
  form.addEventListener("change", update);
  addEventListener("pageshow", update); // going back restores what was chosen
  update();
}
