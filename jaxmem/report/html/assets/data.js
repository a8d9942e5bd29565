/* The data of the page, unpacked. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/* What the scripts ask of one buffer, in words; `data` is the whole page's, `report` one of its reports. */
function bufferFacts(data, report, index) {
  const columns = report.buffers;
  const word = (name) => data.words[columns[name][index]];
  return {
    bytes: columns.bytes[index],
    padding: columns.padding[index],
    role: data.roles[columns.role[index]],
    phase: data.phases[columns.phase[index]],
    layer: word("layer"),
    instruction: word("instruction"),
    opcode: word("opcode"),
    shape: word("dtype") + word("shape"),
    source: word("source"),
    rule: word("rule"),
    start: columns.start[index],
    end: columns.end[index],
    allocation: columns.allocation[index],
    offset: columns.offset[index],
  };
}
