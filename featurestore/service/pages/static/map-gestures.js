// Wheel, drag, pinch, tap and keys, as what they ask for.

const TAP_PX = 6;
const STEP_PX = 80;

export function listen(stage, asked) {
  const pointers = new Map();
  let moved = 0, pinch = null;

  const local = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left - stage.clientLeft, event.clientY - box.top - stage.clientTop];
  };
  const spread = () => {
    const [[ax, ay], [bx, by]] = [...pointers.values()];
    return { length: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 };
  };

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = local(event);
    // Lines and pages, in which some browsers count, as pixels; pinching a touchpad comes as ctrl.
    const unit = [1, 16, 400][event.deltaMode] || 1;
    const delta = Math.max(-240, Math.min(240, event.deltaY * unit));
    asked.zoom(Math.exp(-delta * (event.ctrlKey ? 0.01 : 0.0022)), x, y);
  }, { passive: false });

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, local(event));
    if (pointers.size === 1) moved = 0;
    pinch = pointers.size === 2 ? spread() : null;
  });

  stage.addEventListener("pointermove", (event) => {
    const [x, y] = local(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      asked.hover(x, y);
      return;
    }
    pointers.set(event.pointerId, [x, y]);
    moved += Math.hypot(x - before[0], y - before[1]);
    if (pointers.size === 2 && pinch) {
      const now = spread();
      asked.pan(now.x - pinch.x, now.y - pinch.y);
      asked.zoom(now.length / Math.max(pinch.length, 1), now.x, now.y);
      pinch = now;
      moved = Infinity;
    } else if (pointers.size === 1 && moved > TAP_PX) {
      asked.pan(x - before[0], y - before[1]);
    }
  });

  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    pinch = pointers.size === 2 ? spread() : null;
    if (pointers.size) return;
    if (event.type === "pointerup" && moved <= TAP_PX) asked.pick(...local(event));
    else asked.rest();
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerleave", (event) => {
    // A finger that is lifted leaves, too; what it has tapped stays shown.
    if (!pointers.size && event.pointerType !== "touch") asked.leave();
  });

  const directions = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = directions[event.key];
    if (direction && event.shiftKey) asked.pan(-direction[0] * STEP_PX, -direction[1] * STEP_PX, true);
    else if (direction) asked.step(...direction);
    else if (event.key === "+" || event.key === "=") asked.zoom(1.5);
    else if (event.key === "-" || event.key === "_") asked.zoom(1 / 1.5);
    else if (event.key === "0") asked.whole();
    else if (event.key === "Home") asked.middle();
    else if (event.key === "Enter" || event.key === " ") asked.pin();
    else if (event.key === "Escape") asked.unpin();
    else return;
    event.preventDefault();
  });
}

// Files dropped anywhere on the page.
export function listenForFiles(body, stage, take) {
  const carries = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  body.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    stage.classList.add("dropping");
  });
  body.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("dropping");
  });
  body.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    stage.classList.remove("dropping");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}
