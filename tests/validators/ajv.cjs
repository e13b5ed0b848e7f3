// Prints the names of the files that ajv refuses, one a line, each followed by a tab and the first reason:
// node ajv.cjs MODULES SCHEMA < names
const fs = require("fs");
const path = require("path");

const [modules, schema] = process.argv.slice(2);
const Ajv = require(path.join(modules, "ajv/dist/2020")).default;
const yaml = require(path.join(modules, "yaml"));

// The schema has keywords that are for editors.
const validate = new Ajv({ strict: false }).compile(JSON.parse(fs.readFileSync(schema, "utf8")));
for (const name of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  let reason;
  try {
    const value = yaml.parse(fs.readFileSync(name, "utf8"), { merge: true });
    reason = validate(value) ? undefined : `${validate.errors[0].instancePath} ${validate.errors[0].message}`;
  } catch (error) {
    reason = String(error);
  }
  if (reason !== undefined) {
    console.log(`${name}\t${reason.replaceAll("\n", " ")}`);
  }
}
