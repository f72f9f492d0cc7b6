page({}, undefined);
document.documentElement.dataset.ready = "true";
