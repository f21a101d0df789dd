module.exports = require('./alarms.ts'); // osls loads JavaScript only
