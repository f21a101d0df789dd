module.exports = require('./deployed.ts'); // osls loads JavaScript only
