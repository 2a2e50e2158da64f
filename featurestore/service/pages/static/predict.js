// "Try it": an image that is chosen or dropped is sent at once, and its probabilities are shown.
"use strict";

const MOST_CLASSES = 10;
const tryForm = document.querySelector(".try");
const outcome = tryForm.querySelector(".outcome");
const input = tryForm.querySelector("input[type=file]");
let latest = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A data URL is made here and goes nowhere; it is shown where the browser can read the image.
function preview(file) {
  const image = element("img");
  image.alt = file.name;
  image.addEventListener("error", () => { image.hidden = true; });
  const reader = new FileReader();
  reader.addEventListener("load", () => { image.src = reader.result; });
  reader.readAsDataURL(file);
  return image;
}

function percent(share) {
  if (share >= 0.9995 && share < 1) return "> 99.9 %";
  return `${(100 * share).toFixed(share === 0 || share === 1 ? 0 : 1)} %`;
}

function probabilities(answer, result) {
  const told = element("div", undefined, "told");
  const sentence = element("p", "It looks like ");
  sentence.append(element("b", result.predicted), ".");
  const table = element("table");
  table.append(element("caption", "Probability of each class", "unseen"));
  answer.class_names
    .map((name, at) => [name, result.probabilities[at]])
    .sort((one, other) => other[1] - one[1])
    .slice(0, MOST_CLASSES)
    .forEach(([name, share]) => {
      const row = table.insertRow();
      const header = element("th", name);
      header.scope = "row";
      const meter = element("meter");
      meter.value = share;
      meter.setAttribute("aria-label", name);
      const track = element("td", undefined, "track");
      track.append(meter);
      row.append(header, track, element("td", percent(share)));
    });
  told.append(sentence, table);
  const origins = { computed: "Its features were computed now.", "online cache": "Its features were known: somebody asked before.", "feature set": "Its features were known: it is in a feature set." };
  told.append(element("p", origins[result.origin] || "", "note"));
  return told;
}

async function ask(file) {
  const turn = ++latest;
  const told = element("div", undefined, "told");
  told.append(element("p", `Asking about ${file.name} …`));
  const picture = preview(file);
  outcome.replaceChildren(picture, told);
  let shown;
  try {
    const body = new FormData();
    body.append("image", file, file.name);
    const response = await fetch(tryForm.action, { method: "POST", body, headers: { Accept: "application/json" } });
    const answer = await response.json();
    if (response.ok && answer.results[0].predicted !== undefined && answer.results[0].predicted !== null) {
      shown = probabilities(answer, answer.results[0]);
    } else {
      shown = element("div", undefined, "told");
      const why = response.ok ? answer.results[0].reason : answer.detail;
      shown.append(element("p", why || "The service gave no answer.", "warning"));
      if (answer.next_step) shown.append(element("p", `Next: ${answer.next_step}`));
    }
  } catch {
    shown = element("div", undefined, "told");
    shown.append(element("p", "The service did not answer.", "warning"));
  }
  if (turn === latest) outcome.replaceChildren(picture, shown);
}

input.addEventListener("change", () => { if (input.files.length) ask(input.files[0]); });
tryForm.addEventListener("submit", (event) => {
  event.preventDefault();
  if (input.files.length) ask(input.files[0]);
});
for (const name of ["dragenter", "dragover"]) {
  tryForm.addEventListener(name, (event) => { event.preventDefault(); tryForm.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  tryForm.addEventListener(name, () => tryForm.classList.remove("over"));
}
tryForm.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
});
