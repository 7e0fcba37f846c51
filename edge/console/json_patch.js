// JSON Patch (RFC 6902) on JSON values; pointers are RFC 6901.

export class PatchError extends Error {}

// The value that `operations` make of `value`, which is left as it was; throws PatchError where one does not apply.
export function apply(value, operations) {
  if (!Array.isArray(operations)) throw new PatchError("a patch is an array of operations");
  const root = { value: structuredClone(value) };
  for (const operation of operations) applyOne(root, operation);
  return root.value;
}

function applyOne(root, operation) {
  const path = parse(operation.path);
  switch (operation.op) {
    case "add": return add(root, path, copyOf(operation, "value"));
    case "remove": return void remove(root, path);
    case "replace": return replace(root, path, copyOf(operation, "value"));
    case "move": return move(root, parse(operation.from), path);
    case "copy": return add(root, path, structuredClone(read(root, parse(operation.from))));
    case "test": {
      if (!areEqual(read(root, path), copyOf(operation, "value"))) throw new PatchError(`test failed at ${operation.path}`);
      return undefined;
    }
    default: throw new PatchError(`unknown operation ${JSON.stringify(operation.op)}`);
  }
}

function copyOf(operation, field) {
  if (!Object.hasOwn(operation, field)) throw new PatchError(`operation ${operation.op} lacks ${field}`);
  return structuredClone(operation[field]);
}

function parse(pointer) {
  if (typeof pointer !== "string" || (pointer !== "" && !pointer.startsWith("/"))) throw new PatchError("a path is not a JSON pointer");
  return pointer.split("/").slice(1).map((token) => {
    if (/~(?![01])/.test(token)) throw new PatchError("a path is not a JSON pointer");
    return token.replaceAll("~1", "/").replaceAll("~0", "~");
  });
}

function read(root, path) {
  return path.reduce((value, token) => child(value, token), root.value);
}

function child(value, token) {
  if (Array.isArray(value)) return value[index(token, value.length - 1)];
  if (isObject(value) && Object.hasOwn(value, token)) return value[token];
  throw new PatchError(`there is nothing at ${JSON.stringify(token)}`);
}

// Own properties only, and `__proto__` as a name like any other: a patch comes from outside.
function setMember(object, name, value) {
  Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true });
}

function index(token, last) {
  if (!/^(0|[1-9][0-9]*)$/.test(token) || Number(token) > last) throw new PatchError(`${JSON.stringify(token)} is no index here`);
  return Number(token);
}

function add(root, path, value) {
  if (path.length === 0) {
    root.value = value;
    return;
  }
  const parent = read(root, path.slice(0, -1));
  const token = path.at(-1);
  if (Array.isArray(parent)) parent.splice(token === "-" ? parent.length : index(token, parent.length), 0, value);
  else if (isObject(parent)) setMember(parent, token, value);
  else throw new PatchError("the parent is neither an object nor an array");
}

function remove(root, path) {
  if (path.length === 0) throw new PatchError("the whole value cannot be removed");
  const parent = read(root, path.slice(0, -1));
  const token = path.at(-1);
  const removed = child(parent, token);
  if (Array.isArray(parent)) parent.splice(Number(token), 1);
  else delete parent[token];
  return removed;
}

function replace(root, path, value) {
  if (path.length === 0) {
    root.value = value;
    return;
  }
  const parent = read(root, path.slice(0, -1));
  const token = path.at(-1);
  child(parent, token);
  if (Array.isArray(parent)) parent[Number(token)] = value;
  else setMember(parent, token, value);
}

function move(root, from, path) {
  if (path.length > from.length && from.every((token, at) => token === path[at])) throw new PatchError("a value cannot move into itself");
  add(root, path, remove(root, from));
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function areEqual(a, b) {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, at) => areEqual(item, b[at]));
  if (!isObject(a) || !isObject(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && areEqual(a[name], b[name]));
}
