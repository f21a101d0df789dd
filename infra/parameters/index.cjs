module.exports = require('./index.ts'); // osls loads JavaScript only
