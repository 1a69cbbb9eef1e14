const maps = document.getElementById("maps");
maps?.addEventListener("change", () => document.getElementById("wrong").classList.toggle("no-maps", !maps.checked));
