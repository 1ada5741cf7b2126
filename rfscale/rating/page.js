"use strict";
// Shows what the server asks and sends the answer back; it decides nothing. Keys: arrows, Space, Backspace.

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
let rater = "";
let state = null; // what is asked now
let busy = false; // no answer counts while one is on its way or an image is not there yet

async function ask(path, fields) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Rating-Token": token },
    body: JSON.stringify({ rater, ...fields }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function setBusy(value) {
  busy = value;
  document.querySelector("main").setAttribute("aria-busy", value);
}

async function step(path, fields, then = show) {
  if (busy) return;
  setBusy(true);
  try {
    await then(await ask(path, fields));
    $("trouble").hidden = $("again").hidden = true;
  } catch (error) {
    const gone = error instanceof TypeError;
    $("trouble").textContent = gone
      ? "The server does not answer. What you answered before is kept; start it again and reload this page."
      : `That did not work: ${error.message}.`;
    $("trouble").hidden = false;
  } finally {
    setBusy(false);
  }
  if (!$("again").hidden) $("try-again").focus();
}

// Before the first question: whoever has answered under this name already may be somebody else.
function greet(next) {
  if (!next.done) return show(next);
  const answers = next.done === 1 ? "1 answer" : `${next.done} answers`;
  $("known-text").textContent = `${rater} has ${answers} already; go on as ${rater}, or take another name`;
  $("start").hidden = true;
  $("known").hidden = false;
  $("go-on").focus();
}

function takeAnotherName() {
  if (busy) return;
  $("known").hidden = $("trouble").hidden = $("again").hidden = true;
  $("start").hidden = false;
  $("rater").focus();
  $("rater").select();
}

async function show(next) {
  if (!next.finished && (!state || state.left !== next.left)) await load(next);
  state = next;
  $("start").hidden = $("known").hidden = true;
  $("rating").hidden = next.finished;
  $("end").hidden = !next.finished;
  $("rater-shown").textContent = rater;
  $("count").textContent = `${next.done} of ${next.total}`;
  $("progress").hidden = false;
  $("progress").setAttribute("aria-valuenow", next.done);
  $("progress").setAttribute("aria-valuemax", next.total);
  $("bar").style.width = `${(100 * next.done) / Math.max(1, next.total)}%`;
  if (next.finished) {
    $("end-count").textContent = `All of your ${next.done} answers are kept.`;
    $("end-undo").hidden = !next.last;
    $("end-title").focus();
    return;
  }
  $("prompt").textContent = next.prompt;
  $("step").textContent = next.questions > 1 ? `Question ${next.number} of ${next.questions} about these images` : "";
  $("question").textContent = next.text;
  $("question").classList.remove("new");
  void $("question").offsetWidth; // starts the animation anew
  $("question").classList.add("new");
  $("undo").disabled = !next.last;
  $("question").focus({ preventScroll: true });
}

// Puts both images on the page, or none: then nothing is asked, so that nobody answers about what they do not see.
async function load(next) {
  document.body.classList.add("waiting");
  const images = ["left", "right"].map((side) => {
    const image = new Image();
    image.src = next[side];
    return image;
  });
  try {
    await Promise.all(images.map((image) => image.decode()));
  } catch {
    state = null;
    $("start").hidden = $("known").hidden = $("rating").hidden = true;
    $("again").hidden = false;
    throw new Error("an image could not be loaded; your answers before are kept");
  } finally {
    document.body.classList.remove("waiting");
  }
  for (const [i, side] of ["left", "right"].entries()) {
    images[i].id = `${side}-image`;
    images[i].alt = "";
    $(`${side}-image`).replaceWith(images[i]);
  }
  fit();
}

// Small images are enlarged by a whole number, so that every pixel of theirs is a square of the same size.
function fit() {
  for (const image of [$("left-image"), $("right-image")]) {
    const side = image.naturalWidth;
    const comfortable = Math.min(480, Math.max(240, 20 * side));
    const frames = 110; // pixels beside the images
    const room = Math.max(64, Math.min(comfortable, (window.innerWidth - frames) / 2, window.innerHeight * 0.52));
    const shown = side <= room ? side * Math.floor(room / side) : Math.floor(room);
    image.classList.toggle("enlarged", shown > side);
    image.style.width = image.style.height = `${shown}px`;
  }
}

function answer(choice) {
  if (busy || !state || state.finished) return;
  step("/vote", { showing: state.showing, question: state.question, choice });
}

function undo() {
  if (!busy && state && state.last) step("/undo", state.last);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("known").hidden) takeAnotherName();
  if (!state || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const onButton = event.target instanceof HTMLButtonElement; // reached with Tab: Space presses that button
  const keys = { ArrowLeft: () => answer("left"), ArrowRight: () => answer("right"), Backspace: undo };
  if (!onButton) keys[" "] = () => answer("none");
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = $("rater").value.trim();
  if (rater) step("/state", {}, greet);
});
for (const choice of ["left", "right", "none"]) $(choice).addEventListener("click", () => answer(choice));
for (const id of ["undo", "end-undo"]) $(id).addEventListener("click", undo);
$("go-on").addEventListener("click", () => step("/state", {}));
$("other-name").addEventListener("click", takeAnotherName);
$("try-again").addEventListener("click", () => step("/state", {}));
$("next-rater").addEventListener("click", () => location.reload());
window.addEventListener("resize", fit);
