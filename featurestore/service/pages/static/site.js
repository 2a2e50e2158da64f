// What pages gain from a script: filtering while typing, copying, and a word where an image lacks.
"use strict";

document.documentElement.classList.add("scripted");

function filterWhileTyping(input) {
  const rows = [...document.querySelectorAll(input.dataset.filter)];
  const count = document.querySelector("[data-count]");
  const nothing = document.querySelector(".nothing");
  function apply() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => row.dataset.text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    if (count) {
      const noun = shown === 1 ? count.dataset.one : count.dataset.many;
      count.textContent = `${shown.toLocaleString("en")} ${noun}`;
    }
    if (nothing) nothing.hidden = shown > 0;
  }
  input.addEventListener("input", apply);
}

function addCopyButton(command) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-describedby", command.querySelector("p").id);
  button.addEventListener("click", async () => {
    const code = command.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Without https a browser has no clipboard: the text is selected, to be copied by hand.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  command.append(button);
}

async function tellWhyMissing(image) {
  const place = document.createElement("p");
  place.className = image.closest(".exhibits") ? "missing" : "missing-image";
  place.textContent = "no image";
  image.replaceWith(place);
  try {
    const answer = await fetch(image.src, { headers: { Accept: "application/problem+json" } });
    place.textContent = (await answer.json()).detail;
  } catch { /* the address gives no reason: the words stay */ }
}

function watchImage(image) {
  const settle = () => {
    if (!image.naturalWidth) tellWhyMissing(image);
    else if (Math.max(image.naturalWidth, image.naturalHeight) < 80) image.classList.add("tiny");
  };
  if (image.complete && image.currentSrc) settle();
  else {
    image.addEventListener("load", settle);
    image.addEventListener("error", () => tellWhyMissing(image));
  }
}

document.querySelectorAll("input[data-filter]").forEach(filterWhileTyping);
document.querySelectorAll(".command").forEach(addCopyButton);
document.querySelectorAll("main img[loading=lazy]").forEach(watchImage);
