/* Which bytes each buffer holds when: the boxes of the memory map, and the bytes by role at every position. */

/* Where each allocation begins on the map: what lives through the whole step below, by role, and the rest above. */
function allocationBases(report) {
  const { allocation, offset, bytes, role, start, end } = report.buffers;
  const found = new Map();
  report.allocation.forEach((number, place) => found.set(number, { number, size: report.allocationBytes[place], rank: 99 }));
  for (let i = 0; i < bytes.length; i += 1) {
    if (!found.has(allocation[i])) found.set(allocation[i], { number: allocation[i], size: 0, rank: 99 });
    const entry = found.get(allocation[i]);
    if (!report.allocation.length) entry.size = Math.max(entry.size, offset[i] + bytes[i]);
    if (start[i] === 0) entry.rank = Math.min(entry.rank, role[i]);
  }
  const bases = new Map();
  let base = 0;
  const ordered = [...found.values()].sort((a, b) => a.rank - b.rank || a.number - b.number);
  for (const entry of ordered) {
    bases.set(entry.number, base);
    base += entry.size;
  }
  return { bases, total: base };
}

/* A buffer is cut where a later one is written over it in place: from then on those bytes are the later one's. */
function occupancy(report) {
  const { allocation, offset, bytes, start, end } = report.buffers;
  const { bases, total } = allocationBases(report);
  const boxes = { buffer: [], left: [], right: [], bottom: [], top: [] };
  const close = (piece, position) => {
    if (position <= piece.since) return;
    const base = bases.get(allocation[piece.buffer]);
    boxes.buffer.push(piece.buffer);
    boxes.left.push(piece.since);
    boxes.right.push(position);
    boxes.bottom.push(base + piece.low);
    boxes.top.push(base + piece.high);
  };
  const order = Array.from(bytes.keys()).filter((i) => bytes[i] > 0);
  order.sort((a, b) => start[a] - start[b] || a - b);
  const living = new Map();
  for (const i of order) {
    const low = offset[i], high = low + bytes[i], now = start[i];
    const kept = [];
    for (const piece of living.get(allocation[i]) ?? []) {
      if (end[piece.buffer] < now) {
        close(piece, end[piece.buffer] + 1);
      } else if (piece.high <= low || piece.low >= high) {
        kept.push(piece);
      } else {
        close({ ...piece, low: Math.max(piece.low, low), high: Math.min(piece.high, high) }, now);
        if (piece.low < low) kept.push({ ...piece, high: low });
        if (piece.high > high) kept.push({ ...piece, low: high });
      }
    }
    kept.push({ buffer: i, low, high, since: now });
    living.set(allocation[i], kept);
  }
  for (const pieces of living.values()) for (const piece of pieces) close(piece, end[piece.buffer] + 1);
  return { boxes, total };
}

/* Bytes by role at every position: for each role that occurs an array of the program's length, and their sum. */
function timeline(report, boxes) {
  const { role } = report.buffers;
  const byRole = new Map();
  for (let i = 0; i < boxes.buffer.length; i += 1) {
    const own = role[boxes.buffer[i]];
    if (!byRole.has(own)) byRole.set(own, new Float64Array(report.length + 1));
    const change = byRole.get(own), size = boxes.top[i] - boxes.bottom[i];
    change[Math.min(boxes.left[i], report.length)] += size;
    change[Math.min(boxes.right[i], report.length)] -= size;
  }
  const sum = new Float64Array(report.length);
  for (const live of byRole.values()) {
    for (let at = 1; at < live.length; at += 1) live[at] += live[at - 1];
    for (let at = 0; at < sum.length; at += 1) sum[at] += live[at];
  }
  return { byRole: new Map([...byRole.entries()].sort((a, b) => a[0] - b[0])), sum };
}

/* Runs of positions at which values of one phase are made: [phase, first, past the last]. */
function phaseRuns(report) {
  const { phase, start } = report.buffers;
  const made = new Int8Array(report.length).fill(-1);
  const last = report.length - 1;
  for (let i = 0; i < start.length; i += 1) {
    if (start[i] > 0 && start[i] <= last) made[start[i]] = phase[i];
  }
  const runs = [];
  for (let at = 0; at < made.length; at += 1) {
    if (made[at] < 0) continue;
    const run = runs.at(-1);
    if (run && run[0] === made[at]) run[2] = at + 1;
    else runs.push([made[at], at, at + 1]);
  }
  return runs;
}
