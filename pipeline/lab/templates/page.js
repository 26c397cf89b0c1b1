() => {
  const status = document.getElementById("lab-status");
  if (status) { status.setAttribute("role", "status"); status.setAttribute("aria-live", "polite"); status.setAttribute("aria-atomic", "true"); }
  const name = (id, role, label) => {
    const one = document.getElementById(id);
    if (one) { one.setAttribute("role", role); one.setAttribute("aria-label", label); }
  };
  name("lab-controls", "group", "What is attacked, and how");
  name("lab-seen", "region", "What is seen");
}
