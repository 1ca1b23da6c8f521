// Shows the values of all curves at the place that is pointed to, or stepped to with the arrow keys.
"use strict";

function place(axis, value) {
  const [low, high, log] = axis;
  const f = log ? Math.log : (v) => v;
  return high > low ? (f(value) - f(low)) / (f(high) - f(low)) : 0.5;
}

function shown(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function nearest(points, axis, share) {
  let best = null, distance = Infinity;
  for (const point of points) {
    const away = Math.abs(place(axis, point[0]) - share);
    if (away < distance) [best, distance] = [point, away];
  }
  return best;
}

for (const canvas of document.querySelectorAll("[data-plot]")) {
  const plot = JSON.parse(canvas.dataset.plot);
  const places = [...new Set(plot.curves.flatMap(([, , points]) => points.map((p) => p[0])))].sort((a, b) => a - b);
  let hair = null, tip = null, at = -1;

  function leave() {
    hair?.remove();
    tip?.remove();
    hair = tip = null;
  }

  function show(share) {
    leave();
    const x = nearest(places.map((p) => [p]), plot.x, share)?.[0];
    if (x === undefined) return;
    at = places.indexOf(x);
    const left = place(plot.x, x);
    hair = canvas.appendChild(document.createElement("div"));
    hair.className = "hair";
    hair.style.left = `${100 * left}%`;
    tip = canvas.appendChild(document.createElement("div"));
    tip.className = "tip";
    tip.style[left > 0.5 ? "right" : "left"] = `calc(${100 * (left > 0.5 ? 1 - left : left)}% + 10px)`;
    tip.append(`${plot.name} ${shown(x)}`);
    for (const [name, colour, points] of plot.curves) {
      const point = nearest(points, plot.x, left);
      if (!point || Math.abs(place(plot.x, point[0]) - left) > 0.04) continue;
      const row = tip.appendChild(document.createElement("div"));
      row.className = `c${colour}`;
      row.appendChild(document.createElement("span")).textContent = name;
      row.appendChild(document.createElement("b")).textContent = shown(point[1]);
    }
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    show((event.clientX - box.left) / box.width);
  });
  canvas.addEventListener("pointerdown", (event) => {
    const box = canvas.getBoundingClientRect();
    show((event.clientX - box.left) / box.width);
  });
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    at = Math.min(Math.max(at + step, 0), places.length - 1);
    show(place(plot.x, places[at]));
  });
}
