module.exports = require('./esbuild.ts'); // osls loads JavaScript only
