// Put before the explorer's other scripts, which share it.

function make(tag, given = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on") || ["disabled", "hidden"].includes(key)) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const shortest = (value) => (value === undefined ? "" : Number(value.toPrecision(2)).toString());

