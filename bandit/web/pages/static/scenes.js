// The clips of the demo: every one is drawn here, from its tags, its colour and its seed. A scene is made once for a
// clip and painted for any time t, in seconds, so that a clip looks the same whenever it is played.
//
// Everything is drawn on a sheet that is 360 wide and H high.

export const SHEET = 360;

export const HUES = {
  waves: 200, cats: 28, cooking: 8, space: 262, city: 228, football: 136, knitting: 338, garden: 88, music: 300,
  robots: 178, trains: 42, fireworks: 246,
};

/** Random numbers between 0 and 1 from a seed: mulberry32. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

const noise = (n) => { const x = Math.sin(n * 127.1 + 311.7) * 43758.5453; return x - Math.floor(x); };
const TAU = 2 * Math.PI;
const smooth = (x) => { const c = Math.min(Math.max(x, 0), 1); return c * c * (3 - 2 * c); };
const between = (r, low, high) => low + r() * (high - low);
const pick = (r, list) => list[Math.floor(r() * list.length)];

/** Colours of one clip: colour(lightness, saturation, turn, opacity), around the hue of its tag. */
export function colours(tag, hue = 180) {
  const base = HUES[tag] + ((hue - 180) / 180) * 16;
  return (lightness, saturation = 60, turn = 0, opacity = 1) =>
    `hsl(${base + turn} ${saturation}% ${lightness}% / ${opacity})`;
}

// ---------------------------------------------------------------- shapes

function disc(g, x, y, r, fill) { g.fillStyle = fill; g.beginPath(); g.arc(x, y, r, 0, TAU); g.fill(); }

function oval(g, x, y, rx, ry, fill, turn = 0) {
  g.fillStyle = fill; g.beginPath(); g.ellipse(x, y, Math.abs(rx), Math.abs(ry), turn, 0, TAU); g.fill();
}

function block(g, x, y, w, h, fill, round = 0) {
  g.fillStyle = fill; g.beginPath(); g.roundRect(x, y, w, h, round); g.fill();
}

function shape(g, points, fill) {
  g.fillStyle = fill; g.beginPath();
  points.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
  g.closePath(); g.fill();
}

function stroke(g, points, colour, width = 3) {
  g.strokeStyle = colour; g.lineWidth = width; g.lineCap = "round"; g.lineJoin = "round"; g.beginPath();
  points.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
  g.stroke();
}

function curve(g, from, bend, to, colour, width = 3) {
  g.strokeStyle = colour; g.lineWidth = width; g.lineCap = "round"; g.beginPath();
  g.moveTo(...from); g.quadraticCurveTo(...bend, ...to); g.stroke();
}

function backdrop(g, H, top, bottom) {
  const fill = g.createLinearGradient(0, 0, 0, H);
  fill.addColorStop(0, top); fill.addColorStop(1, bottom);
  g.fillStyle = fill; g.fillRect(-2, -2, SHEET + 4, H + 4);
}

function glow(g, x, y, r, hsl) {
  const fill = g.createRadialGradient(x, y, 0, x, y, r);
  // To the same colour, not to transparent black, which would be a grey ring.
  fill.addColorStop(0, hsl); fill.addColorStop(1, hsl.replace(/( \/ [\d.]+%?)?\)$/, " / 0)"));
  g.fillStyle = fill; g.fillRect(x - r, y - r, 2 * r, 2 * r);
}

function at(g, x, y, turn, scale, draw) {
  g.save(); g.translate(x, y); g.rotate(turn); g.scale(scale, scale); draw(); g.restore();
}

// ---------------------------------------------------------------- scenes

function waves(r, c) {
  const sunX = between(r, 90, 270), speed = between(r, 0.5, 0.9), boats = 1 + Math.floor(r() * 2), dusk = r() < 0.5;
  const layer = (i, t, x, H) =>
    H * (0.44 + i * 0.105) + Math.sin(x / (70 - i * 5) + t * speed * (1 + i * 0.25) + i * 1.7) * (7 + i * 3.5)
    + Math.sin(x / 31 - t * speed * 0.8 + i) * (2 + i);
  return (g, t, H) => {
    backdrop(g, H, dusk ? c(58, 55, 140) : c(80, 70), dusk ? c(84, 80, 190) : c(94, 60, -10));
    glow(g, sunX, H * 0.33, 190, dusk ? "hsl(30 100% 80% / .8)" : "hsl(50 100% 92% / .9)");
    disc(g, sunX, H * 0.33 + Math.sin(t / 4) * 4, 46, dusk ? "hsl(24 96% 66%)" : "hsl(48 100% 90%)");
    for (let gull = 0; gull < 3; gull++) {
      const x = ((t * (14 + gull * 5) + gull * 150) % 460) - 50, y = H * (0.13 + gull * 0.05), flap = Math.sin(t * 6 + gull) * 7;
      curve(g, [x - 12, y - flap], [x - 5, y - 5], [x, y], c(22, 30), 2.5);
      curve(g, [x, y], [x + 5, y - 5], [x + 12, y - flap], c(22, 30), 2.5);
    }
    for (let i = 0; i < 6; i++) {
      if (i === 2) {
        for (let b = 0; b < boats; b++) {
          const x = ((t * (16 - b * 7) + 90 + b * 180) % 480) - 60, y = layer(1, t, x, H);
          at(g, x, y - 4, (layer(1, t, x + 14, H) - layer(1, t, x - 14, H)) / 40, 1.25 - b * 0.35, () => {
            shape(g, [[0, -66], [0, -12], [36, -12]], "hsl(45 60% 96%)");
            shape(g, [[-4, -56], [-4, -12], [-28, -12]], c(88, 50, 180));
            stroke(g, [[0, -70], [0, -4]], "hsl(25 40% 28%)", 3);
            shape(g, [[-34, -8], [40, -8], [26, 12], [-22, 12]], "hsl(8 62% 46%)");
          });
        }
      }
      g.fillStyle = c(66 - i * 9, 66 + i * 3); g.beginPath(); g.moveTo(-4, H + 4);
      for (let x = -4; x <= SHEET + 8; x += 8) g.lineTo(x, layer(i, t, x, H));
      g.lineTo(SHEET + 8, H + 4); g.fill();
      g.strokeStyle = c(92, 60, 0, 0.35); g.lineWidth = 2; g.beginPath();
      for (let x = -4; x <= SHEET + 8; x += 8) (x < 0 ? g.moveTo : g.lineTo).call(g, x, layer(i, t, x, H));
      g.stroke();
    }
  };
}

function catHead(g, fur, dark, look, blink) {
  for (const side of [-1, 1]) {
    shape(g, [[side * 40, -10], [side * 46, -62], [side * 8, -38]], fur);
    shape(g, [[side * 36, -22], [side * 40, -50], [side * 18, -36]], "hsl(350 60% 78%)");
  }
  oval(g, 0, 0, 50, 42, fur);
  for (const x of [-14, 0, 14]) stroke(g, [[x, -38], [x * 0.8, -24]], dark, 5);
  for (const side of [-1, 1]) {
    oval(g, side * 20, -4, 13, 14 * blink, "hsl(66 80% 88%)");
    if (blink > 0.3) oval(g, side * 20 + look[0] * 5, -4 + look[1] * 4, 5.5, 11 * blink, "hsl(220 40% 12%)");
    for (const lift of [-5, 3]) stroke(g, [[side * 20, 14 + lift / 2], [side * 58, 10 + lift * 2]], "hsl(0 0% 100% / .75)", 1.6);
  }
  shape(g, [[-6, 10], [6, 10], [0, 17]], "hsl(350 60% 62%)");
  curve(g, [0, 17], [-3, 26], [-12, 22], dark, 2.4);
  curve(g, [0, 17], [3, 26], [12, 22], dark, 2.4);
}

function cats(r, c) {
  const coats = [["hsl(28 82% 58%)", "hsl(22 76% 42%)"], ["hsl(220 8% 38%)", "hsl(220 10% 22%)"],
    ["hsl(36 44% 90%)", "hsl(30 30% 70%)"], ["hsl(18 36% 32%)", "hsl(16 40% 20%)"]];
  const coat = pick(r, coats), other = pick(r, coats), two = r() < 0.35, fast = between(r, 0.7, 1.2), window = r() < 0.6;
  const one = (g, t, x, y, size, fur, lookAt) => at(g, x, y, 0, size, () => {
    const swing = Math.sin(t * 1.9 * fast) * 44;
    g.lineWidth = 20; g.strokeStyle = fur[1]; g.lineCap = "round"; g.beginPath(); g.moveTo(48, 118);
    g.bezierCurveTo(128, 120, 92 + swing / 3, 30, 128 + swing, 0); g.stroke();
    oval(g, 0, 82, 66, 74 + Math.sin(t * 2) * 2, fur[0]);
    oval(g, 0, 96, 36, 50, "hsl(36 50% 94% / .65)");
    oval(g, -26, 148, 24, 14, fur[0]); oval(g, 26, 148, 24, 14, fur[0]);
    const blink = (t * fast) % 3.4 < 0.16 ? 0.08 : 1;
    const look = [Math.max(-1, Math.min(1, (lookAt[0] - x) / 120)), Math.max(-1, Math.min(1, (lookAt[1] - y) / 160))];
    at(g, look[0] * 8, -8, look[0] * 0.14 + Math.sin(t) * 0.03, 1.16, () => catHead(g, fur[0], fur[1], look, blink));
  });
  return (g, t, H) => {
    backdrop(g, H, c(84, 72), c(72, 66, -8));
    for (let i = 0; i < 9; i++) block(g, i * 44 - 12, 0, 20, H, c(80, 70, 4, 0.5));
    if (window) {
      block(g, 196, H * 0.1, 124, 150, "hsl(30 40% 96%)", 8); block(g, 206, H * 0.1 + 10, 104, 130, "hsl(205 70% 78%)", 4);
      disc(g, 276, H * 0.1 + 44, 17, "hsl(50 100% 92%)"); block(g, 255, H * 0.1 + 10, 6, 130, "hsl(30 40% 96%)");
    }
    block(g, -2, H * 0.74, 364, H, c(46, 42, -12)); oval(g, 180, H * 0.8, 164, 34, c(62, 66, 150, 0.75));
    const fly = [180 + Math.sin(t * 1.3 * fast) * 130, H * 0.3 + Math.sin(t * 2.1 * fast) * 70];
    if (two) one(g, t + 1.3, 282, H * 0.6, 0.62, other, fly);
    one(g, t, two ? 140 : 170, H * 0.565, two ? 1.05 : 1.22, coat, fly);
    for (const side of [-1, 1]) oval(g, fly[0] + side * 9, fly[1], 10, 12 * Math.abs(Math.sin(t * 13)) + 2, c(52, 80, 190), side * 0.5);
    oval(g, fly[0], fly[1], 3, 9, "hsl(220 30% 20%)");
  };
}

function cooking(r, c) {
  const things = Array.from({ length: 7 }, () => ({
    x: between(r, -76, 76), lift: between(r, 90, 190), late: between(r, 0, 0.3), turn: between(r, -4, 4),
    kind: Math.floor(r() * 4), size: between(r, 11, 17),
  }));
  const period = between(r, 1.9, 2.5), tile = pick(r, [40, 60, 150, 190]);
  const piece = (g, kind, s) => {
    if (kind === 0) { disc(g, 0, 0, s, "hsl(8 78% 52%)"); disc(g, 0, 0, s * 0.72, "hsl(12 84% 66%)"); }
    else if (kind === 1) { block(g, -s, -s * 0.5, s * 2, s, "hsl(28 92% 56%)", 4); }
    else if (kind === 2) { disc(g, -s * 0.5, -s * 0.3, s * 0.62, "hsl(110 48% 42%)"); disc(g, s * 0.5, -s * 0.3, s * 0.62, "hsl(116 48% 38%)"); block(g, -3, 0, 6, s, "hsl(90 42% 62%)", 2); }
    else { oval(g, 0, 0, s, s * 0.72, "hsl(46 90% 88%)"); disc(g, 0, 0, s * 0.42, "hsl(42 96% 58%)"); }
  };
  return (g, t, H) => {
    backdrop(g, H, c(92, 60, tile), c(84, 50, tile));
    for (let y = 0; y < H * 0.6; y += 46) for (let x = -20; x < SHEET; x += 46) block(g, x + (y / 46 % 2) * 23, y, 42, 42, c(88, 46, tile, 0.75), 5);
    const top = H * 0.6;
    block(g, -2, top + 34, 364, H, c(26, 22)); block(g, -2, top + 34, 364, 12, c(44, 26));
    for (let i = 0; i < 9; i++) {
      const tall = 24 + Math.sin(t * 11 + i * 2.3) * 9;
      shape(g, [[104 + i * 19, top + 38], [112 + i * 19, top + 38 - tall], [120 + i * 19, top + 38]], i % 2 ? "hsl(38 100% 56%)" : "hsl(210 90% 66% / .9)");
    }
    const beat = (t % period) / period, rock = Math.sin(beat * TAU) * 0.07;
    at(g, 180, top, rock, 1, () => {
      block(g, 118, -12, 130, 18, "hsl(24 34% 30%)", 9);
      g.fillStyle = "hsl(220 10% 22%)"; g.beginPath(); g.moveTo(-134, -16); g.quadraticCurveTo(-112, 34, 0, 36); g.quadraticCurveTo(112, 34, 134, -16); g.fill();
      oval(g, 0, -16, 134, 25, "hsl(220 8% 34%)"); oval(g, 0, -14, 118, 19, "hsl(30 42% 30%)");
    });
    for (const one of things) {
      const f = Math.max(0, Math.min(1, (beat - one.late * 0.5) / 0.6));
      at(g, 180 + one.x, top - 18 - 4 * f * (1 - f) * one.lift * 1.25, one.turn * f * 2, 1.25, () => piece(g, one.kind, one.size));
    }
    g.lineWidth = 11; g.lineCap = "round";
    for (let i = 0; i < 4; i++) {
      const rise = ((t * 0.32 + i / 4) % 1);
      g.strokeStyle = `hsl(0 0% 100% / ${0.55 * Math.sin(rise * Math.PI)})`; g.beginPath();
      for (let k = 0; k <= 10; k++) {
        const y = top - 50 - rise * H * 0.36 - k * 7, x = 100 + i * 54 + Math.sin(k * 0.6 + t * 2 + i) * 11;
        (k ? g.lineTo : g.moveTo).call(g, x, y);
      }
      g.stroke();
    }
  };
}

function planet(g, c, R, turn, ring, t) {
  const arc = (from, to) => { g.lineWidth = R * 0.16; g.strokeStyle = c(84, 70, 130, 0.9); g.beginPath(); g.ellipse(0, 0, R * 1.75, R * 0.44, -0.3, from, to); g.stroke(); };
  if (ring) arc(Math.PI, TAU);
  g.save(); g.beginPath(); g.arc(0, 0, R, 0, TAU); g.clip();
  disc(g, 0, 0, R, c(62, 74, turn));
  for (let i = 0; i < 6; i++) oval(g, Math.sin(t * 0.4 + i * 2) * R * 0.5, -R * 0.8 + i * R * 0.32, R * (0.7 + 0.3 * Math.sin(i * 3)), R * 0.1, c(i % 2 ? 74 : 50, 70, turn + 18), -0.28);
  oval(g, R * 0.42, R * 0.34, R * 1.06, R * 1.1, "hsl(250 60% 8% / .32)");
  disc(g, -R * 0.3, -R * 0.32, R * 0.9, "hsl(0 0% 100% / .07)");
  g.restore();
  if (ring) arc(0, Math.PI);
}

function rocket(g, t) {
  shape(g, [[-7, 24], [7, 24], [0, 44 + Math.sin(t * 30) * 9]], "hsl(38 100% 58%)");
  shape(g, [[-20, 26], [-10, 4], [-8, 26]], "hsl(0 74% 54%)"); shape(g, [[20, 26], [10, 4], [8, 26]], "hsl(0 74% 54%)");
  g.fillStyle = "hsl(0 0% 96%)"; g.beginPath(); g.moveTo(0, -38); g.quadraticCurveTo(18, -12, 11, 26); g.lineTo(-11, 26); g.quadraticCurveTo(-18, -12, 0, -38); g.fill();
  disc(g, 0, -6, 6.5, "hsl(200 80% 56%)");
}

function space(r, c) {
  const stars = Array.from({ length: 70 }, () => [r() * SHEET, r(), between(r, 0.6, 2.2), r() * TAU]);
  const R = between(r, 72, 100), ring = r() < 0.65, turn = pick(r, [-60, 40, 110, 160]), x = between(r, 130, 230), flight = between(r, 6, 9);
  return (g, t, H) => {
    backdrop(g, H, c(9, 60), c(24, 62, 22));
    glow(g, 60, H * 0.8, 260, c(46, 80, 60, 0.42)); glow(g, 320, H * 0.18, 220, c(44, 80, -50, 0.4));
    for (const [sx, sy, size, phase] of stars) disc(g, sx, sy * H, size, `hsl(50 80% 96% / ${0.35 + 0.6 * Math.abs(Math.sin(t * 0.9 + phase))})`);
    const y = H * 0.43 + Math.sin(t * 0.6) * 8, round = t * 0.8;
    const moon = () => disc(g, x + Math.cos(round) * R * 1.75, y + Math.sin(round) * R * 0.55, R * 0.17, "hsl(45 30% 86%)");
    if (Math.sin(round) < 0) moon();
    at(g, x, y, 0, 1, () => planet(g, c, R, turn, ring, t));
    if (Math.sin(round) >= 0) moon();
    const way = (t % flight) / flight;
    at(g, -60 + way * 500, H * 0.84 - way * H * 0.72 - Math.sin(way * Math.PI) * 50, 0.66 + way * 0.4, 1.15, () => rocket(g, t));
  };
}

function city(r, c) {
  const layers = [0, 1, 2].map((i) => ({
    towers: Array.from({ length: 9 }, (_, k) => ({ x: k * 52 + between(r, -8, 8), w: between(r, 36, 56), h: between(r, 0.16, 0.34) + (2 - i) * 0.1, roof: r() })), i,
  }));
  const wet = r() < 0.45, moonX = between(r, 60, 300);
  return (g, t, H) => {
    backdrop(g, H, c(13, 58), c(38, 52, 50));
    glow(g, moonX, H * 0.16, 120, "hsl(45 80% 88% / .4)"); disc(g, moonX, H * 0.16, 27, "hsl(46 70% 90%)");
    const ground = H * 0.72;
    for (const { towers, i } of layers) {
      const shift = -((t * (3 + i * 6)) % 468);
      for (const copy of [0, 468]) {
        towers.forEach((tower, k) => {
          const x = tower.x + shift + copy, h = tower.h * H, y = ground - h;
          if (x > SHEET + 10 || x + tower.w < -10) return;
          block(g, x, y, tower.w, h + 4, c(34 - i * 11, 40 - i * 4, 8), 3);
          if (tower.roof > 0.72) { block(g, x + tower.w / 2 - 2, y - 30, 4, 32, c(34 - i * 11, 40)); if (Math.sin(t * 4 + k) > 0) disc(g, x + tower.w / 2, y - 30, 3.4, "hsl(0 90% 62%)"); }
          for (let wy = y + 12; wy < ground - 12; wy += 17) for (let wx = 7; wx < tower.w - 9; wx += 12) {
            const lit = noise(k * 31 + wx * 1.7 + wy * 0.31 - y * 0.31 + i * 7 + Math.floor(t / 2.2 + noise(wx + k + i) * 9) * 0.013 * (noise(wx * 3 + k) > 0.86 ? 1 : 0));
            if (lit > 0.5) block(g, x + wx, wy, 6, 9, lit > 0.84 ? "hsl(190 80% 78% / .9)" : `hsl(44 94% ${58 + i * 7}% / ${0.5 + i * 0.24})`, 1);
          }
        });
      }
    }
    block(g, -2, ground, 364, H, c(9, 26)); block(g, -2, ground, 364, 5, c(32, 22));
    for (let k = 0; k < 8; k++) block(g, ((k * 62 - t * 90) % 496 + 496) % 496 - 62, ground + H * 0.085, 34, 5, "hsl(45 70% 70% / .7)", 2);
    for (let k = 0; k < 4; k++) {
      const ahead = k % 2 === 0, x = ((ahead ? t * (80 + k * 14) : -t * (64 + k * 10)) + k * 131) % 520, place = (x + 520) % 520 - 80, y = ground + (ahead ? H * 0.115 : H * 0.025);
      glow(g, place + (ahead ? 88 : -22), y + 15, 50, "hsl(48 100% 80% / .55)");
      block(g, place, y, 66, 22, `hsl(${(k * 97 + 10) % 360} 66% 54%)`, 8); block(g, place + 13, y - 13, 40, 20, `hsl(${(k * 97 + 10) % 360} 56% 42%)`, 9);
      block(g, place + 18, y - 9, 30, 11, "hsl(200 70% 82%)", 4); disc(g, place + 15, y + 22, 8, "#111"); disc(g, place + 51, y + 22, 8, "#111");
    }
    if (wet) for (let k = 0; k < 60; k++) { const x = noise(k) * 400 - 20, y = (noise(k + 99) * H + t * 620) % H; stroke(g, [[x, y], [x - 4, y + 18]], "hsl(210 80% 90% / .32)", 1.4); }
  };
}

function ball(g, R) {
  disc(g, 0, 0, R, "hsl(0 0% 98%)");
  g.save(); g.beginPath(); g.arc(0, 0, R, 0, TAU); g.clip();
  const five = (x, y, s, turn) => shape(g, Array.from({ length: 5 }, (_, i) => [x + Math.cos(turn + i * TAU / 5) * s, y + Math.sin(turn + i * TAU / 5) * s]), "hsl(220 20% 16%)");
  five(0, 0, R * 0.36, -Math.PI / 2);
  for (let i = 0; i < 5; i++) {
    const a = -Math.PI / 2 + i * TAU / 5;
    stroke(g, [[Math.cos(a) * R * 0.36, Math.sin(a) * R * 0.36], [Math.cos(a) * R * 0.74, Math.sin(a) * R * 0.74]], "hsl(220 20% 16%)", R * 0.06);
    five(Math.cos(a) * R * 0.98, Math.sin(a) * R * 0.98, R * 0.33, a + Math.PI);
  }
  oval(g, R * 0.3, R * 0.36, R * 1.02, R, "hsl(220 40% 10% / .16)");
  g.restore();
}

function football(r, c) {
  const kick = between(r, 1.05, 1.35), boot = pick(r, ["hsl(345 82% 52%)", "hsl(48 96% 54%)", "hsl(210 86% 52%)", "hsl(0 0% 16%)"]), spin = pick(r, [-1, 1]), sway = between(r, 20, 60);
  return (g, t, H) => {
    backdrop(g, H * 0.46, c(84, 60, 60), c(94, 60, 60));
    for (let k = 0; k < 150; k++) disc(g, (k * 37) % 372, H * 0.31 + noise(k) * H * 0.1, 4.4, `hsl(${(k * 47) % 360} 60% ${55 + noise(k + 5) * 25}%)`);
    block(g, -2, H * 0.405, 364, H, c(40, 52));
    for (let i = 0; i < 7; i++) { const y = H * (0.43 + i * i * 0.0125); if (i % 2) block(g, -2, y, 364, H * (0.0125 * (2 * i + 1)), c(35, 54)); }
    g.strokeStyle = "hsl(0 0% 98%)"; g.lineWidth = 5; g.strokeRect(88, H * 0.3, 184, H * 0.13);
    g.lineWidth = 1; g.strokeStyle = "hsl(0 0% 100% / .6)";
    for (let x = 96; x < 270; x += 12) { g.beginPath(); g.moveTo(x, H * 0.3); g.lineTo(x, H * 0.43); g.stroke(); }
    for (let y = 0; y < 9; y++) { g.beginPath(); g.moveTo(88, H * 0.3 + y * H * 0.0145); g.lineTo(272, H * 0.3 + y * H * 0.0145); g.stroke(); }
    const f = (t % kick) / kick, up = 4 * f * (1 - f), ground = H * 0.72;
    const x = 180 + Math.sin(t * 0.7) * sway, y = ground - 46 - up * H * 0.5, squash = 1 - 0.16 * Math.exp(-up * 26);
    oval(g, x, ground + 46, 62 - up * 26, 13 - up * 5, `hsl(140 50% 8% / ${0.4 - up * 0.22})`);
    const hit = Math.exp(-Math.min(f, 1 - f) * 13);
    at(g, x + 30, ground + 34 - hit * 24, -0.18 - hit * 0.24, 1.7, () => {
      block(g, -94, -40, 42, 70, "hsl(0 0% 96%)", 10); block(g, -94, -28, 42, 9, boot);
      g.fillStyle = boot; g.beginPath(); g.moveTo(-98, 6); g.lineTo(-50, 6); g.quadraticCurveTo(-8, 10, 20, 22); g.quadraticCurveTo(26, 38, 6, 38); g.lineTo(-92, 38); g.quadraticCurveTo(-102, 24, -98, 6); g.fill();
      for (const s of [-82, -52, -22, 2]) block(g, s, 37, 9, 8, "hsl(0 0% 20%)", 2);
    });
    g.save(); g.translate(x, y); g.scale(2 - squash, squash); g.rotate(t * 2.4 * spin); ball(g, 54); g.restore();
  };
}

function yarn(g, R, hsl, dark) {
  disc(g, 0, 0, R, hsl); g.save(); g.beginPath(); g.arc(0, 0, R, 0, TAU); g.clip(); g.lineWidth = R * 0.07; g.strokeStyle = dark;
  for (let i = -4; i < 5; i++) { g.beginPath(); g.ellipse(i * R * 0.2, -R * 0.1, R * 0.9, R * 0.62, 0.8, 0, TAU); g.stroke(); }
  for (let i = -3; i < 4; i++) { g.beginPath(); g.ellipse(0, i * R * 0.22, R * 1.1, R * 0.4, -0.5, 0, Math.PI); g.stroke(); }
  g.restore();
}

function knitting(r, c) {
  const rows = Array.from({ length: 60 }, () => 0), wool = [c(62, 66), c(88, 44, 30), c(44, 56, -30), c(72, 60, 200)];
  for (let k = 0; k < 60; k++) rows[k] = k % 6 < 3 ? 0 : Math.floor(r() * 4);
  const spots = r() < 0.6, pace = between(r, 0.5, 0.75), base = Math.floor(r() * 14);
  return (g, t, H) => {
    backdrop(g, H, c(93, 46, 10), c(84, 46, 16));
    const w = 26, h = 22, across = 11, bottom = H * 0.96, done = base + 9 + t * pace, full = Math.floor(done), part = done - full;
    const edge = bottom - Math.min(full, 17) * h, drop = full > 17 ? (part * h) : 0;
    for (let row = Math.max(0, full - 19); row <= full; row++) {
      const y = edge + (full - row) * h + drop - (full > 17 ? h : 0);
      for (let k = 0; k < across; k++) {
        if (row === full && k / across > part) continue;
        const x = 37 + k * w, shade = spots && (k + row * 3) % 7 === 0 ? wool[1] : wool[rows[row % 60]];
        g.lineWidth = 10.5; g.strokeStyle = shade; g.lineCap = "round"; g.beginPath(); g.moveTo(x, y); g.lineTo(x + w / 2, y + h * 0.8); g.lineTo(x + w, y); g.stroke();
        g.lineWidth = 1.2; g.strokeStyle = "hsl(330 40% 20% / .25)"; g.beginPath(); g.moveTo(x - 2, y + 5); g.lineTo(x + w / 2, y + h * 0.8 + 5); g.lineTo(x + w + 2, y + 5); g.stroke();
      }
    }
    const tipX = 37 + part * across * w, tipY = edge + drop - (full > 17 ? h : 0) - 3, poke = Math.sin(t * pace * across * TAU) * 7;
    curve(g, [tipX, tipY], [330, H * 0.3], [306, H * 0.16], wool[rows[full % 60]], 5);
    at(g, 304, H * 0.15, t * 0.9, 1, () => yarn(g, 46, wool[rows[full % 60]], "hsl(330 40% 26% / .32)"));
    for (const [side, tilt] of [[-1, -0.5], [1, 0.62]]) at(g, tipX + side * (6 + poke), tipY + 4, tilt, 1, () => {
      block(g, -5, -196, 10, 200, "hsl(30 52% 56%)", 5); disc(g, 0, -196, 12, "hsl(30 56% 40%)"); shape(g, [[-5, 2], [5, 2], [0, 20]], "hsl(30 52% 56%)");
    });
  };
}

function flower(g, petals, R, hsl, open, middle = "hsl(44 96% 58%)") {
  for (let i = 0; i < petals; i++) { g.save(); g.rotate(i * TAU / petals); oval(g, 0, -R * 0.72 * open, R * 0.36 * open, R * 0.6 * open, hsl); g.restore(); }
  disc(g, 0, 0, R * 0.36 * Math.max(open, 0.3), middle);
}

function garden(r, c) {
  const plants = Array.from({ length: 6 }, (_, i) => ({
    x: 40 + i * 56 + between(r, -14, 14), tall: between(r, 0.22, 0.46), late: between(r, 0, 0.3), petals: pick(r, [5, 6, 8]),
    colour: `hsl(${pick(r, [345, 20, 48, 280, 210, 0])} 82% ${between(r, 60, 74)}%)`, size: between(r, 26, 40), lean: between(r, -24, 24),
  }));
  const period = between(r, 8, 11), sunX = between(r, 60, 300);
  return (g, t, H) => {
    backdrop(g, H, "hsl(196 76% 78%)", c(92, 70));
    glow(g, sunX, H * 0.15, 130, "hsl(50 100% 88% / .9)"); disc(g, sunX, H * 0.15, 36, "hsl(48 100% 68%)");
    for (let k = 0; k < 3; k++) { const x = ((t * 9 + k * 150) % 500) - 70, y = H * (0.12 + k * 0.07); oval(g, x, y, 44, 14, "hsl(0 0% 100% / .8)"); oval(g, x + 20, y - 9, 26, 14, "hsl(0 0% 100% / .8)"); }
    oval(g, 90, H * 0.86, 280, H * 0.24, c(64, 52)); oval(g, 300, H * 0.9, 270, H * 0.26, c(52, 52));
    const ground = H * 0.82, life = Math.min(1, 0.28 + t / period);
    for (const one of plants) {
      const grown = smooth((life - one.late) / 0.62), open = smooth((life - one.late - 0.36) / 0.3), top = ground - one.tall * H * grown;
      const sway = Math.sin(t * 1.4 + one.x) * 9 * grown + one.lean * grown;
      curve(g, [one.x, ground + 8], [one.x, (ground + top) / 2], [one.x + sway, top], c(34, 56), 7);
      for (let k = 1; k < 4; k++) if (grown > k / 4.4) {
        const y = ground - one.tall * H * k / 5, side = k % 2 ? 1 : -1, size = 24 * smooth((grown - k / 4.4) * 4);
        oval(g, one.x + side * size * 0.9 + sway * k / 6, y, size, size * 0.42, c(42, 60), side * -0.5);
      }
      at(g, one.x + sway, top, sway / 60, 1, () => (open > 0 ? flower(g, one.petals, one.size, one.colour, open) : oval(g, 0, 0, 7, 10, c(46, 60))));
    }
    block(g, -2, ground, 364, H, "hsl(22 42% 26%)");
    for (let k = 0; k < 40; k++) oval(g, (k * 53) % 360, ground + 10 + noise(k) * H * 0.16, 6, 3, "hsl(22 40% 20% / .8)");
    const bx = 180 + Math.sin(t * 0.9) * 130, by = H * 0.4 + Math.sin(t * 1.7) * 80;
    at(g, bx, by, Math.cos(t * 0.9) > 0 ? 0.2 : -0.2, 1.2, () => {
      oval(g, -3, -11, 8, 11 * Math.abs(Math.sin(t * 26)) + 3, "hsl(200 80% 96% / .8)", -0.4); oval(g, 6, -11, 8, 11 * Math.abs(Math.cos(t * 26)) + 3, "hsl(200 80% 96% / .8)", 0.4);
      oval(g, 0, 0, 16, 11, "hsl(46 96% 56%)"); for (const s of [-6, 1, 8]) block(g, s - 2, -10, 4, 20, "hsl(30 30% 14%)", 2);
    });
  };
}

function record(g, R, label, t) {
  disc(g, 0, 0, R, "hsl(260 16% 10%)"); g.lineWidth = 1;
  for (let k = 1; k < 9; k++) { g.strokeStyle = "hsl(0 0% 100% / .1)"; g.beginPath(); g.arc(0, 0, R * (0.4 + k * 0.065), 0, TAU); g.stroke(); }
  for (const turn of [0.5, 0.5 + Math.PI]) { g.fillStyle = "hsl(0 0% 100% / .1)"; g.beginPath(); g.moveTo(0, 0); g.arc(0, 0, R, turn - 0.22, turn + 0.22); g.fill(); }
  g.save(); g.rotate(t * 3.4); disc(g, 0, 0, R * 0.36, label); block(g, -R * 0.2, -R * 0.24, R * 0.4, R * 0.09, "hsl(0 0% 100% / .8)", 3); block(g, -R * 0.13, -R * 0.1, R * 0.26, R * 0.05, "hsl(0 0% 100% / .6)", 2); g.restore();
  disc(g, 0, 0, R * 0.045, "hsl(0 0% 96%)");
}

function note(g, hsl) { oval(g, -5, 12, 9, 7, hsl, -0.4); block(g, 1, -20, 4, 32, hsl, 2); curve(g, [4, -18], [18, -12], [14, 2], hsl, 4); }

function music(r, c) {
  const turn = pick(r, [0, 60, 120, 200]), beat = between(r, 1.6, 2.4);
  return (g, t, H) => {
    backdrop(g, H, c(26, 56), c(52, 62, 40));
    const pulse = Math.exp(-((t * beat) % 1) * 4);
    for (let k = 4; k > 0; k--) disc(g, 180, H * 0.4, 122 + k * 26 + pulse * 16, c(56, 70, 10 * k, 0.13));
    at(g, 180, H * 0.4, 0, 1 + pulse * 0.02, () => record(g, 128, c(62, 84, turn), t));
    at(g, 322, H * 0.2, 0.42 + Math.sin(t * 0.2) * 0.03, 1, () => { disc(g, 0, 0, 19, "hsl(0 0% 86%)"); block(g, -5, 0, 10, 148, "hsl(0 0% 92%)", 5); block(g, -10, 138, 20, 34, "hsl(0 0% 78%)", 5); disc(g, 0, 0, 8, "hsl(0 0% 50%)"); });
    for (let k = 0; k < 13; k++) {
      const tall = 16 + (0.5 + 0.5 * Math.sin(t * (3 + (k * 7) % 5) + k * 1.9)) * H * 0.12 * (0.6 + pulse * 0.6);
      block(g, 22 + k * 25, H * 0.8 - tall, 16, tall, c(74, 86, k * 9), 6); block(g, 22 + k * 25, H * 0.8 + 5, 16, tall * 0.4, c(74, 86, k * 9, 0.24), 6);
    }
    for (let k = 0; k < 4; k++) { const rise = (t * 0.2 + k / 4) % 1; at(g, 60 + k * 82 + Math.sin(t + k * 2) * 18, H * (0.66 - rise * 0.6), Math.sin(t * 2 + k) * 0.3, 1.1, () => note(g, `hsl(0 0% 100% / ${Math.sin(rise * Math.PI) * 0.9})`)); }
  };
}

function robotHead(g, body, t, look = 0) {
  stroke(g, [[0, -44], [0, -66]], "hsl(0 0% 72%)", 5); disc(g, 0, -70, 9, Math.sin(t * 5) > 0 ? "hsl(0 90% 60%)" : "hsl(0 60% 40%)");
  block(g, -66, -14, 14, 34, "hsl(0 0% 66%)", 5); block(g, 52, -14, 14, 34, "hsl(0 0% 66%)", 5);
  block(g, -54, -46, 108, 90, body, 20); block(g, -42, -30, 84, 42, "hsl(200 40% 12%)", 14);
  const blink = t % 3 < 0.14 ? 0.1 : 1;
  for (const side of [-1, 1]) oval(g, side * 20 + look * 5, -9, 11, 13 * blink, "hsl(172 92% 66%)");
  for (let k = 0; k < 5; k++) block(g, -26 + k * 11, 22 - 3 * Math.abs(Math.sin(t * 6 + k)), 7, 8 + 6 * Math.abs(Math.sin(t * 6 + k)), "hsl(200 40% 14%)", 2);
}

function robots(r, c) {
  const body = `hsl(${pick(r, [178, 48, 210, 12, 320])} ${between(r, 44, 66)}% 60%)`, tempo = between(r, 1.1, 1.7), friend = r() < 0.4, floor = pick(r, [40, 180, 90]);
  const one = (g, t, x, y, size, paint) => at(g, x, y + Math.abs(Math.sin(t * tempo * 2)) * -16 * size, Math.sin(t * tempo * 2) * 0.05, size, () => {
    for (const side of [-1, 1]) { block(g, side * 30 - 13, 96, 26, 66 + Math.sin(t * tempo * 4 + side) * 6, "hsl(0 0% 62%)", 8); block(g, side * 32 - 22, 156, 44, 20, "hsl(0 0% 34%)", 9); }
    at(g, -64, 18, 0.35 + Math.sin(t * tempo * 2) * 0.34, 1, () => { block(g, -13, 0, 26, 84, "hsl(0 0% 68%)", 12); disc(g, 0, 88, 18, paint); });
    at(g, 64, 18, -2.4 + Math.sin(t * tempo * 4) * 0.42, 1, () => { block(g, -13, 0, 26, 84, "hsl(0 0% 68%)", 12); disc(g, 0, 88, 18, paint); });
    block(g, -66, 0, 132, 108, paint, 22); block(g, -40, 22, 80, 56, "hsl(0 0% 100% / .86)", 12);
    for (let k = 0; k < 3; k++) disc(g, -22 + k * 22, 40, 7, `hsl(${k * 60} 90% ${Math.sin(t * 3 + k * 2) > 0 ? 58 : 34}%)`);
    g.lineWidth = 3; g.strokeStyle = "hsl(150 70% 40%)"; g.beginPath(); for (let k = 0; k <= 24; k++) (k ? g.lineTo : g.moveTo).call(g, -32 + k * 2.7, 62 + Math.sin(k * 0.9 - t * 7) * 8 * Math.exp(-((k - 12) ** 2) / 44)); g.stroke();
    at(g, Math.sin(t * tempo) * 6, -42, Math.sin(t * tempo * 2 + 1) * 0.1, 1.08, () => robotHead(g, paint, t, Math.sin(t * 0.8)));
  });
  return (g, t, H) => {
    backdrop(g, H, c(88, 46), c(66, 50, 16));
    g.lineWidth = 2; g.strokeStyle = c(98, 40, 0, 0.4);
    for (let k = 0; k < 13; k++) { g.beginPath(); g.moveTo(k * 32 - 10, 0); g.lineTo(k * 32 - 10, H * 0.76); g.stroke(); g.beginPath(); g.moveTo(0, k * 44 - ((t * 16) % 44)); g.lineTo(SHEET, k * 44 - ((t * 16) % 44)); g.stroke(); }
    block(g, -2, H * 0.76, 364, H, c(38, 40, floor)); for (let k = 0; k < 6; k++) block(g, k * 72 - ((t * 20) % 72), H * 0.76, 36, H, c(42, 40, floor));
    oval(g, friend ? 140 : 180, H * 0.79, 104, 20, "hsl(200 40% 10% / .34)");
    if (friend) { oval(g, 296, H * 0.8, 48, 11, "hsl(200 40% 10% / .3)"); one(g, t + 0.5, 296, H * 0.8 - 90, 0.5, c(62, 60, 120)); }
    one(g, t, friend ? 140 : 180, H * 0.79 - 196, 1.12, body);
  };
}

function engine(g, paint, t) {
  block(g, 0, -64, 54, 64, paint, 6); block(g, 9, -54, 30, 24, "hsl(200 70% 84%)", 4); block(g, -6, -72, 66, 12, "hsl(220 20% 24%)", 5);
  block(g, 50, -42, 84, 42, paint, 14); block(g, 104, -74, 17, 36, "hsl(220 20% 24%)", 4); disc(g, 80, -44, 12, "hsl(45 80% 56%)"); disc(g, 133, -24, 8, "hsl(50 100% 80%)");
  shape(g, [[130, -14], [152, 6], [130, 6]], "hsl(0 60% 40%)"); block(g, -4, -8, 140, 12, "hsl(220 20% 24%)", 3);
  for (const x of [18, 58, 98]) at(g, x, 6, t * 6, 1, () => { disc(g, 0, 0, 16, "hsl(220 16% 18%)"); disc(g, 0, 0, 9, "hsl(0 60% 46%)"); stroke(g, [[-13, 0], [13, 0]], "hsl(45 60% 70%)", 3); });
}

function trains(r, c) {
  const paint = `hsl(${pick(r, [6, 212, 150, 282, 32])} 62% 44%)`, speed = between(r, 60, 100), winter = r() < 0.3, cars = 2;
  const hill = (g, t, H, base, swell, size, pace, fill) => {
    g.fillStyle = fill; g.beginPath(); g.moveTo(-4, H + 4);
    for (let x = -4; x <= SHEET + 8; x += 8) { const u = (x + t * pace) / size; g.lineTo(x, H * base - (Math.sin(u) + Math.sin(u * 2.3 + 1) * 0.5) * swell); }
    g.lineTo(SHEET + 8, H + 4); g.fill();
  };
  return (g, t, H) => {
    backdrop(g, H, winter ? "hsl(205 60% 76%)" : c(76, 84), winter ? "hsl(210 50% 94%)" : c(93, 86));
    glow(g, 268, H * 0.2, 130, "hsl(45 100% 92% / .9)"); disc(g, 268, H * 0.2, 36, winter ? "hsl(48 90% 94%)" : "hsl(22 96% 70%)");
    hill(g, t, H, 0.46, 44, 96, speed * 0.1, winter ? "hsl(215 40% 84%)" : c(70, 44, 150));
    hill(g, t, H, 0.58, 34, 76, speed * 0.26, winter ? "hsl(212 36% 92%)" : c(52, 40, 70));
    for (let k = 0; k < 7; k++) { const x = ((k * 72 - t * speed * 0.5) % 504 + 504) % 504 - 60, y = H * 0.59; block(g, x - 3, y, 6, 24, "hsl(24 36% 26%)"); shape(g, [[x - 22, y + 6], [x, y - 52], [x + 22, y + 6]], winter ? "hsl(170 24% 56%)" : c(34, 44, 90)); }
    hill(g, t, H, 0.65, 9, 60, speed * 0.5, winter ? "hsl(210 40% 97%)" : c(46, 46, 60));
    const rail = H * 0.73;
    block(g, -2, rail + 20, 364, H, winter ? "hsl(212 30% 86%)" : c(34, 38, 50));
    for (let k = 0; k < 12; k++) block(g, ((k * 40 - t * speed * 2) % 480 + 480) % 480 - 50, rail + 23, 22, 8, "hsl(24 32% 28%)", 2);
    block(g, -2, rail + 20, 364, 5, "hsl(220 12% 42%)");
    const jolt = Math.sin(t * 9) * 1.1, x0 = 178 + Math.sin(t * 0.5) * 16;
    for (let k = 0; k < 7; k++) { const age = (t * 0.9 + k / 7) % 1; disc(g, x0 + 112 - age * 250, rail - 80 - age * 100, 11 + age * 30, `hsl(0 0% 100% / ${0.75 * (1 - age)})`); }
    for (let k = 1; k <= cars; k++) {
      const x = x0 - k * 132; block(g, x + 118, rail - 6, 20, 6, "hsl(220 20% 24%)");
      block(g, x, rail - 58 + jolt * (k % 2 ? 1 : -1), 122, 62, k % 2 ? c(90, 60) : paint, 9); block(g, x, rail - 14 + jolt * (k % 2 ? 1 : -1), 122, 8, k % 2 ? paint : c(90, 60));
      for (let w = 0; w < 3; w++) block(g, x + 12 + w * 36, rail - 48 + jolt * (k % 2 ? 1 : -1), 27, 25, "hsl(46 90% 82%)", 4);
      for (const wx of [26, 96]) { disc(g, x + wx, rail + 8, 13, "hsl(220 16% 18%)"); disc(g, x + wx, rail + 8, 6, "hsl(0 0% 70%)"); }
    }
    at(g, x0, rail + jolt, 0, 1, () => engine(g, paint, t));
    for (let k = 0; k < 2; k++) { const x = ((k * 300 - t * speed * 3.2) % 600 + 600) % 600 - 100; block(g, x, H * 0.5, 8, H * 0.5, "hsl(24 30% 20% / .85)"); block(g, x - 26, H * 0.52, 60, 6, "hsl(24 30% 20% / .85)"); }
  };
}

function fireworks(r, c) {
  const salvos = Array.from({ length: 6 }, (_, i) => ({ late: i * 0.47 + between(r, 0, 0.3), seed: Math.floor(r() * 1e5) })), period = 2.8, houses = Array.from({ length: 12 }, () => [between(r, 24, 38), between(r, 18, 62), r()]);
  return (g, t, H) => {
    backdrop(g, H, c(7, 62), c(26, 58, 24));
    for (let k = 0; k < 40; k++) disc(g, noise(k) * SHEET, noise(k + 50) * H * 0.6, 1.1, "hsl(0 0% 100% / .5)");
    const shore = H * 0.72, now = t + 1.3;
    g.save(); g.globalCompositeOperation = "lighter";
    for (const { late, seed } of salvos) {
      const turn = Math.floor((now + late) / period), age = (now + late) - turn * period, key = seed + turn * 17;
      const x = 50 + noise(key) * 260, y = H * (0.13 + noise(key + 1) * 0.36), hue = Math.floor(noise(key + 2) * 12) * 30, count = 22 + Math.floor(noise(key + 3) * 16), big = 64 + noise(key + 4) * 62;
      if (age < 0.7) { const f = age / 0.7; stroke(g, [[x, shore - (shore - y) * f], [x, shore - (shore - y) * Math.max(0, f - 0.12)]], `hsl(40 90% 80% / ${1 - f * 0.4})`, 3); continue; }
      const f = (age - 0.7) / 1.9, fade = Math.max(0, 1 - f), grow = 1 - Math.exp(-f * 4.2);
      if (f < 0.24) glow(g, x, y, 150, `hsl(${hue} 90% 70% / ${0.6 * (1 - f / 0.24)})`);
      for (let k = 0; k < count; k++) {
        const a = k * TAU / count + noise(key + 9), reach = big * grow * (k % 2 ? 1 : 0.66), px = x + Math.cos(a) * reach, py = y + Math.sin(a) * reach + f * f * 42;
        stroke(g, [[x + Math.cos(a) * reach * 0.78, y + Math.sin(a) * reach * 0.78 + f * f * 34], [px, py]], `hsl(${hue + (k % 2) * 40} 92% 66% / ${fade * 0.55})`, 2.4);
        disc(g, px, py, 2.9 * fade + 0.4, `hsl(${hue + (k % 2) * 40} 96% 78% / ${fade})`);
        disc(g, px, 2 * shore - py * 0.6 - shore * 0.34, 2, `hsl(${hue} 90% 70% / ${fade * 0.22})`);
      }
    }
    g.restore();
    let x = -6;
    for (const [w, h, roof] of houses) { block(g, x, shore - h, w + 1, h + 3, c(8, 40)); if (roof > 0.4) shape(g, [[x - 3, shore - h], [x + w / 2, shore - h - 18], [x + w + 4, shore - h]], c(8, 40)); if (roof > 0.3) block(g, x + w / 2 - 4, shore - h * 0.6, 8, 10, "hsl(44 90% 66% / .9)", 1); x += w; }
    block(g, -2, shore, 364, H, c(13, 56, 8, 0.82));
    for (let k = 0; k < 14; k++) block(g, noise(k) * 360 - 20 + Math.sin(t + k) * 9, shore + 8 + k * (H * 0.2 / 14), 46 - k, 2, c(62, 60, 0, 0.17), 1);
  };
}

const SCENES = { waves, cats, cooking, space, city, football, knitting, garden, music, robots, trains, fireworks };

// ---------------------------------------------------------------- signs: a tag in a circle of radius 50

const SIGNS = {
  waves(g, t) { const c = colours("waves"); at(g, 2, 6, Math.sin(t * 2) * 0.08, 0.72, () => { shape(g, [[0, -62], [0, -8], [36, -8]], "#fff"); shape(g, [[-4, -50], [-4, -8], [-26, -8]], c(86, 60)); shape(g, [[-34, -4], [40, -4], [26, 16], [-22, 16]], "hsl(8 62% 50%)"); });
    for (let i = 0; i < 2; i++) { g.fillStyle = c(44 - i * 12, 74); g.beginPath(); g.moveTo(-50, 50); for (let x = -50; x <= 50; x += 5) g.lineTo(x, 16 + i * 12 + Math.sin(x / 11 + t * 2 + i * 2) * 4); g.lineTo(50, 50); g.fill(); } },
  cats(g, t) { at(g, 0, 8, Math.sin(t * 1.5) * 0.06, 0.7, () => catHead(g, "hsl(28 82% 56%)", "hsl(22 76% 38%)", [Math.sin(t), 0], t % 3 < 0.15 ? 0.1 : 1)); },
  cooking(g, t) { block(g, -30, -2, 60, 34, "hsl(220 10% 26%)", 8); block(g, -40, -6, 80, 9, "hsl(220 8% 40%)", 4); block(g, -5, -16, 10, 8, "hsl(24 34% 34%)", 3); for (let i = -1; i < 2; i++) curve(g, [i * 15, -18], [i * 15 + Math.sin(t * 3 + i) * 10, -28], [i * 15, -38], "hsl(0 0% 100% / .9)", 4); },
  space(g, t) { planet(g, colours("space"), 23, 130, true, t); },
  city(g, t) { [[-32, 30, 18], [-10, 52, 20], [14, 40, 18]].forEach(([x, h, w], k) => { block(g, x, 30 - h, w, h, "hsl(228 40% 44%)", 2); for (let y = 36 - h; y < 26; y += 9) for (let d = 4; d < w - 4; d += 7) if (noise(k * 9 + y + d) > 0.35) block(g, x + d, y, 3.6, 5, "hsl(45 94% 66%)"); }); },
  football(g, t) { at(g, 0, 0, t, 1, () => ball(g, 31)); },
  knitting(g, t) { for (const a of [-0.7, 0.7]) at(g, 0, 4, a, 1, () => { block(g, -3, -46, 6, 66, "hsl(30 52% 50%)", 3); disc(g, 0, -46, 6, "hsl(30 56% 36%)"); }); at(g, 0, 8, t * 0.4, 1, () => yarn(g, 26, "hsl(338 70% 62%)", "hsl(330 40% 26% / .4)")); },
  garden(g, t) { stroke(g, [[0, 38], [0, 2]], "hsl(110 50% 34%)", 5); oval(g, 13, 24, 12, 5, "hsl(110 50% 40%)", -0.5); at(g, 0, -6, Math.sin(t) * 0.15, 1, () => flower(g, 6, 28, "hsl(345 82% 66%)", 1)); },
  music(g, t) { record(g, 34, "hsl(320 84% 62%)", t); },
  robots(g, t) { at(g, 0, 10, Math.sin(t * 2) * 0.06, 0.58, () => robotHead(g, "hsl(178 54% 56%)", t, Math.sin(t))); },
  trains(g, t) { at(g, -37, 22, 0, 0.52, () => engine(g, "hsl(6 62% 46%)", t)); },
  fireworks(g, t) { const f = 0.55 + 0.45 * Math.abs(Math.sin(t)); for (let k = 0; k < 14; k++) { const a = k * TAU / 14; stroke(g, [[Math.cos(a) * 12 * f, Math.sin(a) * 12 * f], [Math.cos(a) * 34 * f, Math.sin(a) * 34 * f]], `hsl(${k * 26} 90% 62%)`, 4); } },
};

/** The sign of a tag, drawn around (0, 0) with radius 50. */
export function sign(g, tag, t) {
  disc(g, 0, 0, 50, colours(tag)(tag === "space" || tag === "fireworks" || tag === "city" ? 20 : 90, 56));
  g.save(); g.beginPath(); g.arc(0, 0, 50, 0, TAU); g.clip(); SIGNS[tag](g, t); g.restore();
}

/** The sign of a tag on a canvas of its own. */
export function signCanvas(tag, size, t = 0.6) {
  const canvas = document.createElement("canvas"), sharp = Math.min(devicePixelRatio || 1, 2);
  canvas.width = canvas.height = size * sharp; canvas.className = "sign";
  const g = canvas.getContext("2d"); g.scale(size * sharp / 100, size * sharp / 100); g.translate(50, 50); sign(g, tag, t);
  return canvas;
}

/** What draws a clip: paint(context, t, width, height) fills that many pixels. */
export function painter(clip) {
  const [tag, guest] = clip.tags, scene = SCENES[tag](random(clip.seed), colours(tag, clip.hue));
  const guestX = clip.seed % 2 ? 84 : 276;
  return (g, t, width, height) => {
    const scale = width / SHEET, H = height / scale;
    g.save(); g.scale(scale, scale); scene(g, t, H);
    if (guest) at(g, guestX + Math.sin(t * 0.8) * 10, H * 0.24 + Math.sin(t * 1.1) * 10, Math.sin(t * 1.3) * 0.12, 1, () => {
      disc(g, 0, 3, 57, "hsl(0 0% 0% / .18)"); disc(g, 0, 0, 55, "#fff"); sign(g, guest, t);
    });
    g.restore();
  };
}
