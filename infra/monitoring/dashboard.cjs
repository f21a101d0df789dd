module.exports = require('./dashboard.ts'); // osls loads JavaScript only
