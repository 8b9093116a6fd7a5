// Menus of the method and of those it is held against; a method that cannot run now is greyed with the reason.

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "vtc-picker";
  el.append(box);

  function menu(words, first, chosen, take) {
    const label = document.createElement("label"), select = document.createElement("select");
    [label.textContent, select.title, select.disabled] = [words[0], words[1], first === null];
    select.setAttribute("aria-label", words[1]);
    if (first !== chosen) select.add(new Option(first ?? "no more than four", ""));
    for (const [name, reason] of model.get("choices")) {
      const option = new Option(reason ? `${name} (${reason})` : name, name, name === chosen, name === chosen);
      [option.disabled, option.title] = [Boolean(reason) && name !== chosen, reason || name];
      select.add(option);
    }
    select.onchange = () => { if (select.value) take(select.value); };
    return [label, select];
  }

  function set(value) {
    model.set("value", value);
    model.save_changes();
  }

  function draw() {
    const [method, ...others] = model.get("value"), full = others.length >= model.get("most") - 1;
    const chips = document.createElement("div");
    chips.className = "vtc-chips";
    others.forEach((name, index) => {
      const chip = document.createElement("button");
      [chip.textContent, chip.title] = [`${name} ×`, `no longer compare with ${name}`];
      chip.onclick = () => set([method, ...others.filter((_, n) => n !== index)]);
      chips.append(chip);
    });
    const first = menu(["method", "the method whose reduction is shown"], method, method, (name) => set([name, ...others]));
    const add = (name) => set([method, ...others.filter((other) => other !== name), name]);
    const second = menu(["against", "another method at exactly the same budget, up to three"], full ? null : "add a method …", "", add);
    const why = (model.get("choices").find(([name]) => name === method) ?? [])[1];
    const focused = box.contains(document.activeElement) ? [...box.querySelectorAll("select")].indexOf(document.activeElement) : -1;
    box.replaceChildren(...first, ...second, chips);
    if (focused >= 0) box.querySelectorAll("select")[focused].focus();
    if (why) box.append(Object.assign(document.createElement("div"), { className: "vtc-why", textContent: `${method} ${why}` }));
  }

  const events = ["change:value", "change:choices"];
  events.forEach((event) => model.on(event, draw));
  draw();
  return () => events.forEach((event) => model.off(event, draw));
}

export default { render };
