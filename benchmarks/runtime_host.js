// Runs one ONNX file in onnxruntime-node: node runtime_host.js FOLDER [FILE INPUT SHAPE OUTPUT], as runtime_host.py does; FOLDER holds node_modules.
const fs = require("fs");
const path = require("path");

async function main([folder, file, source, shape, target]) {
  const package_ = path.resolve(folder, "node_modules", "onnxruntime-node");
  if (file === undefined) {
    const { version } = JSON.parse(fs.readFileSync(path.join(package_, "package.json"), "utf-8"));
    console.log(`${version}, node ${process.versions.node}`);
    return;
  }
  const ort = require(package_);
  const bytes = fs.readFileSync(source);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const session = await ort.InferenceSession.create(file, { logSeverityLevel: 4 });
  const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", values, shape.split("x").map(Number)) };
  const { data } = (await session.run(feeds))[session.outputNames[0]];
  fs.writeFileSync(target, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`SAID:${error}`);
  process.exit(1);
});
